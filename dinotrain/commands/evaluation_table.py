"""What an evaluation prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dinotrain.commands.evaluation_images import Images
from dinotrain.commands.evaluation_results import Results
from dinotrain.evaluation.setting import Setting
from dinotrain.reporting.quantities import figures, interval_text
from dinotrain.weights.weights import Weights

MOST_NUMBERS = 9


def introduce(results: Results, images: Images, weights: Weights, setting: Setting) -> None:
    """Say what is evaluated on what."""
    backbone = setting.backbone
    precision = str(backbone.dtype).removeprefix("torch.")
    lines = {
        "weights": f"{weights.path}: {weights.layout}, {weights.architecture.brief()}",
        "images": ", ".join(f"{len(split):,} {split.name}" for split in _splits(images)),
        "input": f"{backbone.preparation.size} px, {precision}, {setting.world.size} x {setting.world.device.type}",
        "results": str(results.folder),
    }
    for name, text in lines.items():
        print(f"{name:<9}{text}")
    for note in (*weights.notes, *images.notes):
        print(f"note     {note}")
    print(flush=True)


def show(results: Results, tasks: Sequence[str]) -> None:
    """The numbers of the tasks, and where the rest is."""
    table = Table("task", "result", "95 % interval", "more")
    for task in tasks:
        record = results.tasks[task]
        (headline, value), *others = record["numbers"].items()
        ends = record["interval"]
        between = interval_text(headline, *ends) if ends else ""
        more = [f"{name} {figures(name, number)}" for name, number in others[:MOST_NUMBERS]]
        left = len(others) - MOST_NUMBERS
        table.add_row(
            task, f"{headline} {figures(headline, value)}", between, ", ".join(more) + (" ..." if left > 0 else "")
        )
    Console().print(table)
    for task in tasks:
        for note in results.tasks[task]["notes"]:
            print(f"{task}: {note}")
    print(f"report: {results.folder / 'report.html'}", flush=True)


def _splits(images: Images) -> list:
    return [split for split in (images.train, images.validation, images.test, *images.extra_tests.values()) if split]
