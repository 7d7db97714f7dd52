"""What a model card is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dinotrain.reporting.elements import fact
from dinotrain.reporting.energy import Energy
from dinotrain.reporting.results_folder import ResultsFolder
from dinotrain.reporting.run_folder import RunFolder

UNMEASURED = "not measured"
UNRECORDED = "not on record"


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says that is not in the run's own files.

    Args:
        parameters: numbers of parameters by part of the trained networks, the backbone first.
        fingerprint: of the training data.
        images: number of the training images.
        energy: of the training.
        evaluations: results of the run's weights.
    """

    parameters: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str | None = None
    images: int | None = None
    energy: Energy | None = None
    evaluations: Sequence[ResultsFolder] = ()


def is_distilled(run: RunFolder) -> bool:
    return bool(run.setting("teacher", "weights"))


def gpus_of(run: RunFolder) -> list[str]:
    """Names of the GPUs of the main process's machine; none where they were not used."""
    found = run.environment.get("gpus")
    if run.setting("runtime", "device") == "cpu" or not isinstance(found, list):
        return []
    return [str(gpu.get("name")) for gpu in found if isinstance(gpu, Mapping)]


def module_of(node: Any) -> str:
    """Name of the module of what a part of the configuration builds; empty where it builds nothing."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return str(target).split(".")[-2] if target and "." in str(target) else ""


def spaced(key: Any) -> str:
    """A key of the configuration in words."""
    words = {"ibot": "iBOT", "dino": "DINO", "koleo": "KoLeo", "lr": "learning rate", "eps": "epsilon"}
    return " ".join(words.get(word, word) for word in str(key).split("_"))


def settings(node: Any) -> str:
    """The keys and values of a part of the configuration; empty for one that is not there."""
    if not isinstance(node, Mapping):
        return ""
    values = {key: f"({fact(value)})" if isinstance(value, list) else value for key, value in node.items()}
    return fact({spaced(key): value for key, value in values.items() if not str(key).startswith("_")})


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """On one line, and without what ends a cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
