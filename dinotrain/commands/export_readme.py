"""README.md of an exported Hugging Face folder, in the form of a model card: what is not known says so."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dinotrain.commands.card import CardOptions, write_card
from dinotrain.commands.export_options import ExportRequest
from dinotrain.errors import UserError
from dinotrain.exporting.hugging_face import class_of
from dinotrain.exporting.subject import Subject
from dinotrain.exporting.verdict import Verdict
from dinotrain.reporting.card_facts import UNRECORDED, cell, table
from dinotrain.reporting.elements import fact
from dinotrain.reporting.model_card import LIMITS
from dinotrain.training.manifest import MANIFEST
from dinotrain.weights.classifier_file import CLASSIFIER
from dinotrain.weights.runs import EXPORT

MOST_CLASSES = 20
"""Whose names are written out."""

TAGS = ("vision-transformer", "dinov2", "dinotrain")


def readme(subject: Subject, request: ExportRequest, how: Sequence[str], verdict: Verdict | None) -> str:
    """The whole text.

    Args:
        how: lines of Python that use the folder.
        verdict: None where it was not checked.
    """
    what = "A vision transformer, as features for images." if subject.classifier is None else _telling(subject)
    parts = [
        f"# {cell(Path(request.weights).stem)}\n\n{what}",
        f"## How to use\n\n```python\n{_lines(how)}\n```",
        f"## Model\n\n{table(('', ''), _model(subject))}",
        f"## Check\n\n{_check(verdict)}",
        *([_head(subject)] if subject.classifier is not None else []),
        _origin(subject, request),
    ]
    return _front_matter(subject) + "\n\n".join(parts) + "\n"


def _front_matter(subject: Subject) -> str:
    task = "image-feature-extraction" if subject.classifier is None else "image-classification"
    words = yaml.safe_dump(
        {"library_name": "transformers", "pipeline_tag": task, "tags": list(TAGS)}, sort_keys=False, allow_unicode=True
    )
    return f"---\n# license: choose one, such as apache-2.0; the data's may have a say\n{words}---\n\n"


def _telling(subject: Subject) -> str:
    assert subject.classifier is not None
    description = subject.classifier.description
    kind = "one class per image" if description.labels == "single" else "any number of classes per image"
    return f"A vision transformer that tells {len(description.classes)} classes, {kind}."


def _lines(how: Sequence[str]) -> str:
    return "\n".join(how).replace("FOLDER", "path/to/this/folder")


def _model(subject: Subject) -> list[tuple[str, str]]:
    a = subject.architecture
    mean, std = subject.normalization or ((), ())
    known = subject.weights.normalization is not None
    parameters = sum(value.numel() for value in subject.weights.backbone.values())
    name = class_of(subject)
    return [
        ("class of transformers", f"{name}; its pooler_output was not trained" if name == "ViTModel" else name),
        ("architecture", a.brief()),
        ("feed-forward", f"{a.ffn}, ratio {a.ffn_ratio:g}"),
        ("LayerScale", "yes" if a.layer_scale else "no"),
        ("parameters of the backbone", f"{parameters:,}"),
        ("numbers", str(subject.dtype).removeprefix("torch.")),
        ("positions are stored for", f"{a.image_size} px"),
        ("images", f"{subject.size} px, the middle of images with a short side of {_short(subject)} px"),
        ("mean and standard deviation", _normalization(mean, std, known) if mean else UNRECORDED),
        ("output", "CLS token, registers where there are any, a token per patch (row-major), after the final norm"),
    ]


def _short(subject: Subject) -> int:
    return round(subject.size / subject.crop_fraction)


def _normalization(mean: Sequence[float], std: Sequence[float], known: bool) -> str:
    told = "" if known else " (ImageNet's: the source of the weights says nothing)"
    return f"{fact(list(mean))}; {fact(list(std))}, of images in 0..1{told}"


def _check(verdict: Verdict | None) -> str:
    if verdict is None:
        return "Not checked."
    told = "\n".join(f"- {line}" for line in verdict.words())
    return f"Features of random images, beside those of the network as it was trained:\n\n{told}"


def _head(subject: Subject) -> str:
    """What is known of a classifier."""
    assert subject.classifier is not None
    description = subject.classifier.description
    names = list(description.classes[:MOST_CLASSES])
    more = len(description.classes) - len(names)
    rows = [
        ("classes", ", ".join(names) + (f" and {more:,} more (config.json)" if more else "")),
        ("head", "linear, on the CLS token and the mean patch token"),
    ]
    if description.labels == "multi":
        limits = description.thresholds or (0.5,) * len(description.classes)
        rows.append(("a class is told above", _thresholds(description.classes, limits)))
    rows += [(str(key).replace("_", " "), _told(key, value)) for key, value in description.origin.items()]
    if not description.origin:
        rows.append(("how it was trained", UNRECORDED))
    return f"## Classifier\n\n{table(('', ''), rows)}"


def _told(key: str, value: Any) -> str:
    """A fact of the origin; of a path its last part alone, as the rest is nobody else's business."""
    return Path(value).name if key == "weights" and isinstance(value, str) else fact(value) or UNRECORDED


def _thresholds(classes: Sequence[str], limits: Sequence[float]) -> str:
    if len(set(limits)) == 1:
        return f"a probability of {limits[0]:g}"
    return ", ".join(f"{name} {limit:g}" for name, limit in zip(classes, limits))


def _origin(subject: Subject, request: ExportRequest) -> str:
    """Data, training and results as the run's own card tells them, where the weights are those it is about."""
    run = _run_of(request)
    if subject.classifier is None and run is not None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                card = write_card(run, CardOptions(out=Path(folder) / "card.md")).read_text(encoding="utf-8")
            except UserError:  # not a run of the trainer
                card = ""
        _, heading, rest = card.partition("\n## Data\n")
        if heading:
            return f"## Data\n{rest.rstrip()}"
    if subject.classifier is not None:
        return f"## Data and training of the backbone\n\nNot on record.\n\n{LIMITS}"
    measured = "Not measured, as far as the source of these weights says."
    return f"## Data and training\n\nNot on record.\n\n## Results\n\n{measured}\n\n{LIMITS}"


def _run_of(request: ExportRequest) -> Path | None:
    """The run whose final weights are exported; None for any others, such as those of an earlier checkpoint."""
    path = Path(request.weights).expanduser()
    run = path.parent if path.name == EXPORT else path
    other = request.part is not None or (run / MANIFEST).exists() or (run / CLASSIFIER).exists()
    return run if run.is_dir() and not other else None
