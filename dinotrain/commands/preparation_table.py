"""The table that closes a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dinotrain.preparing.closing import DUPLICATES, FAILED, SHEET, size
from dinotrain.preparing.output import SUMMARY

Rows = list[tuple[str, str]]


def show(summary: dict[str, Any], folder: Path, extra: Rows) -> None:
    """Print what was done, and how to train on it."""
    rows = [*_rows(summary, folder), *extra]
    console = Console(highlight=False)
    if console.is_terminal:
        table = Table(
            title=Text(f"Shards in {folder}", style="bold"), box=None, show_header=False, title_justify="left"
        )
        table.add_column(style="cyan")
        table.add_column()
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        console.print(table)
    else:
        width = max(len(name) for name, _ in rows)
        print("\n".join(["", f"Shards in {folder}", *(f"  {name:<{width}}  {value}" for name, value in rows), ""]))
    print(f"train on them:  python -m dinotrain.train +experiment=NAME data=shards data.root={folder}", flush=True)


def _rows(summary: dict[str, Any], folder: Path) -> Rows:
    counts, data = summary["counts"], summary["bytes"]
    failed = counts["failed"] + counts["left_out_of_the_listing"]
    dropped = counts["duplicates_exact"] + counts["duplicates_near"]
    shrunk = f", {counts['shrunk']:,} of them shrunk" if counts["shrunk"] else ""
    rows = [("images", f"{counts['kept']:,} kept of {counts['looked_at']:,}{shrunk}")]
    rows.append(("broken", f"{failed:,}: see {folder / FAILED}" if failed else "none"))
    if dropped:
        kinds = f"{counts['duplicates_exact']:,} exact, {counts['duplicates_near']:,} near"
        other = counts["duplicates_of_another_class"]
        rows.append(
            ("duplicates", f"{kinds}{f', {other:,} of another class' * bool(other)}: see {folder / DUPLICATES}")
        )
    rows += [
        ("shards", f"{len(summary['shards']):,}, {size(data['shards'])} (originals {size(data['originals'])})"),
        ("formats", ", ".join(f"{name} {count:,}" for name, count in summary["formats_in"].items())),
        ("shorter side", _range(summary["sizes"], "short")),
    ]
    if summary["classes"]:
        numbers = [count for count in summary["class_counts"] if count]
        rows.append(("classes", f"{len(numbers):,}, of {_spread(min(numbers), max(numbers))} images each"))
    rows.append(("look at", f"{folder / SHEET}, {folder / SUMMARY}"))
    return rows


def _range(sizes: dict[str, dict[str, int]], side: str) -> str:
    """Least, median and greatest length, before and after."""
    both = (sizes[f"{side}_in"], sizes[f"{side}_out"])
    texts = [f"{_spread(s['min'], s['max'])} px" + f", median {s['median']:,}" * (s["min"] < s["max"]) for s in both]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]}; now {texts[1]}"


def _spread(least: int, greatest: int) -> str:
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"
