"""Writing answers as a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Literal, TextIO, get_args

from dinotrain.predicting.answer import Answers, Scored

Format = Literal["table", "jsonl", "csv"]

FORMATS: tuple[str, ...] = get_args(Format)
_LEAST_NAME, _LEAST_WIDTH = 12, 40


class JsonLines:
    """An object a line: the name of the image, and its answer or error."""

    def __init__(self, out: TextIO, answers: Answers) -> None:
        self._out, self._answers = out, answers

    def answer(self, name: str, scored: Sequence[Scored], note: str | None) -> None:
        shown = self._answers.shown(scored)
        told = shown if isinstance(shown, dict) else {"ranked": shown}
        self._write({"image": name, **told} | ({"note": note} if note else {}))

    def error(self, name: str, reason: str) -> None:
        self._write({"image": name, "error": reason})

    def _write(self, value: dict) -> None:
        print(json.dumps(value, ensure_ascii=False), file=self._out, flush=True)


class Csv:
    """With "probs" a row for each image and a column for each class, empty where it is not told; with "ranked" a row
    for each class of each image."""

    def __init__(self, out: TextIO, answers: Answers, classes: Sequence[str]) -> None:
        self._out, self._classes = out, classes if answers.form == "probs" else None
        self._rows = csv.writer(out, lineterminator="\n")
        columns = ["rank", "label", "score"] if self._classes is None else list(self._classes)
        self._width = len(columns)
        self._rows.writerow(["image", *columns, "error"])

    def answer(self, name: str, scored: Sequence[Scored], note: str | None) -> None:
        if self._classes is not None:
            told = dict(scored)
            self._rows.writerow([name, *(told.get(label, "") for label in self._classes), ""])
        else:
            ranks = [[name, rank, *each, ""] for rank, each in enumerate(scored, start=1)]
            # An image of none of the classes has a row, too.
            self._rows.writerows(ranks or [[name, "", "", "", ""]])
        self._out.flush()

    def error(self, name: str, reason: str) -> None:
        self._rows.writerow([name, *[""] * self._width, reason])
        self._out.flush()


class Table:
    """A line for each image, for reading; errors go elsewhere.

    Args:
        width: letters of a line; the name of an image gets up to a third of it.
    """

    def __init__(self, out: TextIO, errors: TextIO, *, width: int) -> None:
        self._out, self._errors = out, errors
        self._width = max(width, _LEAST_WIDTH)
        self._name = max(self._width // 3, _LEAST_NAME)

    def answer(self, name: str, scored: Sequence[Scored], note: str | None) -> None:
        told = "  ".join(f"{each.label} {100 * each.score:.1f} %" for each in scored) or "none of the classes"
        told += f"  ({note})" if note else ""
        # The end of a path says more than its beginning.
        short = name if len(name) <= self._name else f"…{name[1 - self._name :]}"
        print(f"{short:<{self._name}}  {told}", file=self._out, flush=True)

    def error(self, name: str, reason: str) -> None:
        print(f"error: {name}: {reason}", file=self._errors, flush=True)


Writer = JsonLines | Csv | Table
"""Writes a line or more for each image, at once."""
