"""The end of a run, or of a part of it: results, report, closing words."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dinotrain.commands.options import TRAINING_TASKS
from dinotrain.commands.roster import Entry
from dinotrain.commands.settings import Settings
from dinotrain.reporting.energy import energy_of_run
from dinotrain.reporting.quantities import number_label, task_title
from dinotrain.reporting.report import write_report
from dinotrain.reporting.run_folder import RunFolder, restarts
from dinotrain.training.display import Display
from dinotrain.training.learner import Learner
from dinotrain.training.manifest import complete_checkpoints
from dinotrain.training.recorder import Recorder, peak_memory_gb
from dinotrain.training.state import TrainState

TASK_PREFIXES = tuple(f"{task}_" for task in TRAINING_TASKS)


def conclude(entries: Sequence[Entry], learners: Sequence[Learner], display: Display) -> None:
    """Write `results.json` and `report.html` of each student; print the closing table or how to go on."""
    rows, reports, found = [], [], {}
    for entry, learner in zip(entries, learners):
        settings = entry.settings
        results = summarize(settings, learner.recorder, learner.state)
        path = settings.run_dir / "results.json"
        path.write_text(json.dumps(results, indent=1))
        run = RunFolder(settings.run_dir)
        energy = energy_of_run(run)
        # Time, speed, memory and energy are those of the job, which all students share.
        together = [each.name for each in learners if each.name]
        results |= {"energy_kwh": energy and energy.kwh, "students_of_the_job": together or None}
        path.write_text(json.dumps(results, indent=1))
        found[settings.student] = results
        reports.append(write_report(settings.run_dir))
        if results["finished"]:
            rows += accuracy_rows(run, results, settings.student, last=learner is learners[-1])
    if "" not in found:
        (entries[0].settings.run_dir.parent / "results.json").write_text(json.dumps(found, indent=1))
    if rows:
        display.table("k-NN accuracy (top 1, %)", ["features", "accuracy"], rows)
    for report in reports:
        display.message(f"report: {report}")


def summarize(settings: Settings, recorder: Recorder, state: TrainState) -> dict:
    """The content of results.json, from the run's records."""
    rows = recorder.metrics.rows()
    last = {key: value for row in rows for key, value in row.items() if value is not None}
    speeds = sorted(row["images_per_second"] for row in rows if row.get("images_per_second"))
    checkpoints = complete_checkpoints(settings.run_dir / "checkpoints")
    return {
        **{key: value for key, value in last.items() if key.startswith(TASK_PREFIXES)},
        "loss": last.get("loss"),
        "steps": state.step,
        # The evaluation after the last step may have been cut off.
        "finished": state.step == settings.recipe.steps and is_evaluated(rows, state.step),
        "images": state.step * settings.recipe.global_batch,
        "seconds": max((row.get("time") or 0.0 for row in rows), default=0.0),
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
        "peak_memory_gb": round(peak_memory_gb(recorder.world.device), 3),
        "processes": recorder.world.size,
        "restarts": restarts(rows),
        "checkpoint": str(checkpoints[-1]) if checkpoints else None,
        "teacher": settings.teacher and {"path": settings.teacher.path, "digest": settings.teacher_digest},
    }


def is_evaluated(rows: Sequence[dict], step: int) -> bool:
    """Whether the evaluation after a step is on record."""
    return any(row["step"] == step and row.get("evaluated") for row in rows)


def accuracy_rows(run: RunFolder, results: dict, student: str, *, last: bool) -> list[list[str]]:
    """The closing table's rows of one student: what was trained, and what it has to beat, where there were labels."""
    rows = []
    for label, key in run.accuracies:
        # Of several students, what all share is said once, at the end.
        own = key in ("knn_top1", "knn_top1_untrained")
        if results.get(key) is not None and (own or last):
            rows.append([f"{student}: {label}" if student and own else label, f"{results[key]:.1f}"])
    for key, value in results.items():
        if key.startswith(TASK_PREFIXES) and not key.startswith("knn_"):
            name, _, number = key.partition("_")
            label = f"{task_title(name)}, {number_label(number)}"
            rows.append([f"{student}: {label}" if student else label, f"{value:.1f}"])
    return rows
