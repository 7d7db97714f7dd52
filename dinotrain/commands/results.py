"""The end of a run, or of a part of it: results, report, closing words."""

from __future__ import annotations

import json

from dinotrain.commands.settings import Settings
from dinotrain.reporting.energy import energy_of_run
from dinotrain.reporting.report import write_report
from dinotrain.reporting.run_folder import RunFolder
from dinotrain.training.manifest import complete_checkpoints
from dinotrain.training.display import Display
from dinotrain.training.recorder import Recorder, peak_memory_gb
from dinotrain.training.state import TrainState

ACCURACIES = (
    ("trained teacher", "knn_top1"),
    ("same network, untrained", "knn_top1_untrained"),
    ("raw pixels", "knn_top1_pixels"),
)


def conclude(settings: Settings, recorder: Recorder, state: TrainState) -> None:
    """Write `results.json` and `report.html`, print the closing table or how to go on."""
    results = summarize(settings, recorder, state)
    path = settings.run_dir / "results.json"
    path.write_text(json.dumps(results, indent=1))
    energy = energy_of_run(RunFolder(settings.run_dir))
    path.write_text(json.dumps(results | {"energy_kwh": energy and energy.kwh}, indent=1))
    report = write_report(settings.run_dir)
    if results["finished"]:
        closing_table(recorder.display, results)
    recorder.display.message(f"report: {report}")


def summarize(settings: Settings, recorder: Recorder, state: TrainState) -> dict:
    """The content of results.json, from the run's records."""
    rows = recorder.metrics.rows()
    last = {key: value for row in rows for key, value in row.items() if value is not None}
    speeds = sorted(row["images_per_second"] for row in rows if row.get("images_per_second"))
    checkpoints = complete_checkpoints(settings.run_dir / "checkpoints")
    return {
        **{key: value for key, value in last.items() if key.startswith("knn_")},
        "loss": last.get("loss"),
        "steps": state.step,
        "finished": state.step == settings.recipe.steps,
        "images": state.step * settings.recipe.global_batch,
        "seconds": max((row.get("time") or 0.0 for row in rows), default=0.0),
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
        "peak_memory_gb": round(peak_memory_gb(recorder.world.device), 3),
        "processes": recorder.world.size,
        "checkpoint": str(checkpoints[-1]) if checkpoints else None,
    }


def closing_table(display: Display, results: dict) -> None:
    """k-NN accuracy of the teacher beside what it has to beat, where there were labels."""
    rows = [[label, f"{results[key]:.1f}"] for label, key in ACCURACIES if results.get(key) is not None]
    if rows:
        display.table("k-NN accuracy (top 1, %)", ["features", "accuracy"], rows)
