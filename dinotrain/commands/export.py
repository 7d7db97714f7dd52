"""One export, from what was typed to files that were read back and compared."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.evaluation_input import input_of
from dinotrain.commands.export_options import ExportRequest
from dinotrain.commands.export_readme import readme
from dinotrain.commands.export_words import introduce, show
from dinotrain.errors import Status, UserError
from dinotrain.exporting.formats import FORMATS, Format
from dinotrain.exporting.library import library
from dinotrain.exporting.subject import DTYPES, Subject
from dinotrain.weights.classifier_file import ClassifierWeights, classifier_at
from dinotrain.weights.weights import IMAGENET

FILES = {".pt", ".bin", *(format.suffix for format in FORMATS.values() if format.suffix)}
"""Suffixes by which the name of a file is told from that of a folder."""


def export(config: DictConfig) -> Status:
    """Write what is configured.

    Raises:
        UserError: with one line, for what the user can put right, or if what was written answers otherwise than ours.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    request = ExportRequest(**{str(key): value for key, value in plain.items()})
    if request.check:
        for name in request.formats:
            _require_libraries(name, FORMATS[name])
    subject = subject_of(request)
    introduce(subject)
    for name in request.formats:
        _export(name, FORMATS[name], subject, request)
    return Status.DONE


def _require_libraries(name: str, format: Format) -> None:
    """Raises `UserError` if what is written could not be checked."""
    for name_of_library in format.libraries if format.extra else ():
        library(name_of_library, extra=format.extra or "", what=f"format={name}: to check it (or check=false)")


def subject_of(request: ExportRequest) -> Subject:
    """The model that was asked for, in the type and with the table that were asked for.

    Raises:
        UserError: if it can't be read.
    """
    try:
        classifier = classifier_at(request.weights) if request.part is None else None
    except UserError as error:
        raise UserError(f"weights: {error}") from error
    subject = _backbone(request) if classifier is None else _classifier(request, classifier)
    subject = subject if request.head else subject.without_head()
    if request.image_size is not None:
        subject = subject.for_images_of(request.image_size)
    return subject if request.dtype is None else subject.in_dtype(DTYPES[request.dtype])


def _backbone(request: ExportRequest) -> Subject:
    weights = request.read_weights()
    size, crop_fraction = input_of(request, weights)
    known = weights.normalization or IMAGENET
    if request.mean is not None or request.std is not None:
        weights = replace(weights, normalization=(tuple(request.mean or known[0]), tuple(request.std or known[1])))
    return Subject(weights=weights, size=size, crop_fraction=crop_fraction)


def _classifier(request: ExportRequest, classifier: ClassifierWeights) -> Subject:
    typed = {key: getattr(request, key) for key in ("size", "crop_fraction", "mean", "std")}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in typed.items() if value}
    description = replace(classifier.description, **given)
    patch, heads = classifier.backbone.architecture.patch_size, classifier.backbone.architecture.num_heads
    if request.num_heads not in (None, heads):
        raise UserError(f"num_heads: got {request.num_heads}, but this classifier says of itself that it has {heads}")
    if description.size % patch:
        raise UserError(f"size: {description.size} px is not a multiple of the patches of {patch} px of these weights")
    weights = replace(classifier.backbone, normalization=(description.mean, description.std))
    return Subject(
        weights=weights,
        size=description.size,
        crop_fraction=description.crop_fraction,
        classifier=replace(classifier, backbone=weights, description=description),
    )


def _export(name: str, format: Format, subject: Subject, request: ExportRequest) -> None:
    """Write one format beside its place, and move it there once it was found right."""
    place = _place(name, format, subject, request)
    if place.is_file():
        _refuse_existing(place, request)
    with _staging(place) as folder:
        staged = folder / place.name
        if format.suffix is None:
            staged.mkdir()
        how = format.write(subject, staged, request.options)
        verdict = format.verdict(subject, staged, request.tolerance) if request.check else None
        if verdict is not None and not verdict.right:
            worst = verdict.worst
            raise UserError(
                f"format={name}: read back, {worst.name} of {worst.images} differs by {worst.value:.1e} of its largest "
                f"value, more than {verdict.limit:.0e}; nothing was kept (tolerance=N allows more)"
            )
        if name == "hf":
            text = readme(format.adapted(subject), request, how, verdict)
            (staged / "README.md").write_text(text, encoding="utf-8", errors="replace")
        show(name, place, _publish(staged, place, request), how, verdict)


def _place(name: str, format: Format, subject: Subject, request: ExportRequest) -> Path:
    """Its file or folder.

    Raises:
        UserError: for a file name of another kind.
    """
    out = request.path
    alone = len(request.formats) == 1
    if alone and format.suffix is None:
        return out
    if out.suffix not in FILES or out.is_dir():
        return out / format.name(subject)
    if alone and out.suffix == format.suffix:
        return out
    expected = "a folder" if not alone else f"a name that ends in {format.suffix}, or a folder"
    raise UserError(f"out: got {request.out}, expected {expected} for format={name}")


@contextmanager
def _staging(place: Path) -> Iterator[Path]:
    """A folder beside it for what is not known to be right yet.

    Raises:
        UserError: if nothing can be written there.
    """
    made = [parent for parent in place.parents if not parent.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise UserError(f"out: can't write to {place.parent} ({error.strerror})") from error
    try:
        yield folder
    except OSError as error:
        raise UserError(f"out: can't write to {place.parent} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # something was kept there
                parent.rmdir()


def _publish(staged: Path, place: Path, request: ExportRequest) -> list[Path]:
    """Move files to their place; returns them."""
    inside = staged.is_dir()
    files = sorted(staged.iterdir() if inside else staged.parent.iterdir())
    targets = [(place if inside else place.parent) / file.name for file in files]
    for target in targets:
        _refuse_existing(target, request)
    if inside:
        place.mkdir(exist_ok=True)
    for file, target in zip(files, targets, strict=True):
        os.replace(file, target)
    return targets


def _refuse_existing(target: Path, request: ExportRequest) -> None:
    """Raises `UserError` if there is something that is not to be replaced."""
    if target.exists() and not request.force:
        raise UserError(f"out: {target} exists; expected another place, or force=true to replace it")
