"""The end of a run of finetune: the classifier's file, results.json, report, closing words."""

from __future__ import annotations

import datetime
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as ConsoleTable

from dinotrain.commands.config import without_secrets
from dinotrain.commands.evaluation_images import fingerprint
from dinotrain.commands.evaluation_place import data_name, step_of
from dinotrain.commands.evaluation_results import FORMAT, Results
from dinotrain.commands.finetuning_outcome import charts, end_notes, per_class, per_image, threshold_notes
from dinotrain.commands.finetuning_records import Subject
from dinotrain.evaluation.confusion import confusion
from dinotrain.evaluation.outcome import Outcome
from dinotrain.evaluation.splits import Split
from dinotrain.finetuning.networks import whole_tensors
from dinotrain.finetuning.records import Records
from dinotrain.finetuning.scores import Measured
from dinotrain.finetuning.state import FinetuneState
from dinotrain.finetuning.validation import Validation, measure
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.reporting.environment import PACKAGES, package_version
from dinotrain.reporting.quantities import interval_text, number_label, number_text
from dinotrain.training.recorder import peak_memory_gb
from dinotrain.weights.classifier_file import (
    CLASSIFIER,
    ClassifierDescription,
    ClassifierWeights,
    read_classifier,
    write_classifier,
)

TASK = "finetune"


def conclude(
    folder: Path,
    subject: Subject,
    state: FinetuneState,
    recipe: OptimizationRecipe,
    validation: Validation,
    records: Records,
) -> None:
    """Measure the best weights again, write them and what they are worth; all processes together."""
    state.average.restore()
    scores, rows = validation.scores(state.student)
    labels = validation.labels[rows]
    measured = measure(scores, labels)
    weights = _classifier(subject, state, measured, records)
    if not records.world.main:
        return
    write_classifier(folder / CLASSIFIER, weights)
    outcome = Outcome(
        numbers=measured.numbers,
        protocol=_protocol(subject, state, recipe),
        per_image=per_image(scores, labels, rows),
        notes=(*subject.notes, *threshold_notes(subject.images.classes, measured), *end_notes(state, recipe)),
        charts=charts(records.metrics.rows()),
        tables=(per_class(subject.images.classes, measured),),
    )
    if labels.ndim == 1:
        matrices, tables = confusion(labels, scores.argmax(axis=1), subject.images.classes)
        outcome = replace(outcome, matrices=matrices, tables=(*outcome.tables, *tables))
    results = Results(folder)
    results.found = _found(folder, subject, state, records)
    unreadable = {"validation": validation.unreadable} if validation.unreadable else {}
    results.add(TASK, outcome, without_secrets(subject.config), records.seconds, unreadable=unreadable)
    records.event("finished", state.step)
    show(folder)


def show(folder: Path) -> None:
    """Print what a finished run is worth, and what can be done with it."""
    record = Results(folder).tasks[TASK]
    table = ConsoleTable("validation", "best", "95 % interval")
    for number, (name, value) in enumerate(record["numbers"].items()):
        between = interval_text(name, *record["interval"]) if record["interval"] and not number else ""
        table.add_row(number_label(name), number_text(name, value), between)
    Console().print(table)
    for note in record["notes"]:
        print(f"note: {note}")
    place = shlex.quote(str(folder))
    # Hugging Face's classes take the CLS token of one block.
    one = read_classifier(str(folder)).description.blocks == 1
    export = "format=hf out=exported" if one else "format=onnx out=exported.onnx"
    print(
        f"classifier: {folder / CLASSIFIER}\nreport: {folder / 'report.html'}\n\nto go on:\n"
        f"  python -m dinotrain.predict model={place} IMAGE ...\n"
        f"  python -m dinotrain.serve model={place}\n"
        f"  python -m dinotrain.export weights={place} {export}",
        flush=True,
    )


def _classifier(subject: Subject, state: FinetuneState, measured: Measured, records: Records) -> ClassifierWeights:
    """With whole tensors in the main process."""
    main, start, classifier = records.world.main, subject.start, subject.classifier
    head = whole_tensors(classifier.head, keep=main)
    # What was not trained is written as it was read.
    backbone = start.weights.backbone
    if subject.request.kind.trains_backbone:
        backbone = whole_tensors(classifier.backbone, keep=main)
    thresholds = () if measured.thresholds is None else tuple(measured.thresholds.tolist())
    origin = {
        "weights": start.weights.path,
        "weights_layout": start.weights.layout,
        "weights_digest": start.digest,
        "data": data_name(subject.config),
        "data_fingerprint": subject.images.fingerprint,
        "head": subject.request.head,
        "step": state.progress.best_step,
        "steps": state.step,
        "validation": measured.numbers,
    }
    description: ClassifierDescription = replace(start.description, thresholds=thresholds, origin=origin)
    # The other processes have only called along.
    return ClassifierWeights(
        backbone=replace(start.weights, backbone=backbone),
        weight=head.get("weight", classifier.head.weight),
        bias=head.get("bias", classifier.head.bias),
        description=description,
    )


def _protocol(subject: Subject, state: FinetuneState, recipe: OptimizationRecipe) -> dict[str, Any]:
    request = subject.request
    return {
        "head": request.head,
        "labels": subject.images.labels,
        "steps": state.step,
        "best_step": state.progress.best_step,
        "batch": recipe.global_batch,
        "lr": recipe.lr,
        "layer_decay": recipe.layerwise_decay if request.kind.trains_backbone else None,
        "drop_path": request.drop_path or 0.0,
        "weight_decay": recipe.weight_decay,
        "warmup_steps": recipe.in_steps(recipe.warmup),
        "balance": request.balance,
        "label_smoothing": request.label_smoothing,
        "crop_scale": list(request.crop_scale),
        "flip": request.flip,
        "color": request.color,
        "size": subject.classifier.description.size,
        "chosen_by": "the validation images, which these numbers are of",
        "seed": request.seed,
    }


def _found(folder: Path, subject: Subject, state: FinetuneState, records: Records) -> dict[str, Any]:
    images, weights, description = subject.images, subject.start.weights, subject.start.description
    name = data_name(subject.config)
    speeds = sorted(row["images_per_second"] for row in records.metrics.rows() if row.get("images_per_second"))
    return {
        "format": FORMAT,
        "name": folder.resolve().name,
        "finished": True,
        "classifier": CLASSIFIER,
        "head": subject.request.head,
        "labels": images.labels,
        "classes": list(images.classes),
        "steps": state.step,
        "best_step": state.progress.best_step,
        "weights": {
            "path": weights.path,
            "layout": weights.layout,
            "digest": subject.start.digest,
            "architecture": vars(weights.architecture),
            "step": step_of(weights),
            "notes": list(weights.notes),
        },
        "data": {
            "train": _of_split(images.train, name, subject),
            "validation": _of_split(images.validation, name, subject),
        },
        "resolution": {"size": description.size, "crop_fraction": description.crop_fraction},
        "normalization": [list(description.mean), list(description.std)],
        "precision": subject.precision,
        "seed": subject.request.seed,
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
        "peak_memory_gb": round(peak_memory_gb(records.world.device), 3),
        "skipped_files": len(records.skips),
        "tasks": {},
        "processes": records.world.size,
        "versions": {package: package_version(package) for package in PACKAGES},
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _of_split(split: Split, name: str, subject: Subject) -> dict[str, Any]:
    return {
        "name": name,
        "fingerprint": fingerprint(split),
        "images": len(split),
        "classes": len(subject.images.classes),
    }
