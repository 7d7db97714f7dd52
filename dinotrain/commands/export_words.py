"""What an export prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinotrain.exporting.subject import Subject
from dinotrain.exporting.verdict import Verdict

MARGIN = 12
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def introduce(subject: Subject) -> None:
    """Say what is exported."""
    weights = subject.weights
    _row("weights", f"{weights.path}: {weights.layout}, {weights.architecture.brief()}")
    _row("input", f"{subject.size} px; positions are stored for {subject.architecture.image_size} px")
    if subject.classifier is not None:
        description = subject.classifier.description
        blocks = f"{description.blocks} block{'s' * (description.blocks > 1)}"
        _row("head", f"{len(description.classes)} classes, {description.labels}, on {blocks}")
    for note in weights.notes:
        _row("note", note)


def show(name: str, place: Path, files: Sequence[Path], how: Sequence[str], verdict: Verdict | None) -> None:
    """What was written, how far it is from what it was made of, and how it is used."""
    print()
    inside = place.is_dir()
    told = [f"{file.name if inside else file} ({_size(file)})" for file in files]
    _row(name, f"{place}: {', '.join(told)}" if inside else ", ".join(told))
    for line in verdict.words() if verdict is not None else ["not checked: check=false"]:
        _row("", line)
    for line in how:
        _row("", f"  {line.replace('FOLDER', str(place))}")


def _row(name: str, text: str) -> None:
    print(f"{name:<{MARGIN}}{text}", flush=True)


def _size(file: Path) -> str:
    count = file.stat().st_size
    return next((f"{count / unit:.1f} {name}" for unit, name in UNITS if count >= unit), f"{count} bytes")
