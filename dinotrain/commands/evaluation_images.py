"""The images of an evaluation: where to learn, where to choose, where to measure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from dinotrain.commands.config import compose_config
from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.commands.recognition import quoted
from dinotrain.commands.sources import build_source
from dinotrain.data.source import Source
from dinotrain.data.sources.folder import FolderSource
from dinotrain.errors import UserError
from dinotrain.evaluation.relabelled import in_classes_of
from dinotrain.evaluation.splits import Split, held_out, random_part, whole

HELD_OUT = 0.1


@dataclass(frozen=True)
class Images:
    """All splits, and what is said of them."""

    train: Split
    test: Split
    validation: Split | None
    extra_tests: dict[str, Split]
    notes: tuple[str, ...]

    @property
    def fingerprints(self) -> list[str]:
        """Of all that decides results."""
        splits = [self.train, self.test, self.validation, *self.extra_tests.values()]
        return [fingerprint(split) for split in splits if split is not None]


def fingerprint(split: Split) -> str:
    """Of the images of a split."""
    return f"{len(split)} images {split.identity}"


def images_of(config: DictConfig, request: EvaluationRequest, overrides: Sequence[str]) -> Images:
    """Build them.

    Args:
        overrides: what was typed, to be composed anew for other roots.

    Raises:
        UserError: for what can't be read, empty splits, and labels that don't agree.
    """
    source = build_source(config)
    test = source.test() if request.test_root is None else _at(overrides, "test_root", request.test_root)
    validation = None if request.validation_root is None else _at(overrides, "validation_root", request.validation_root)
    for what, found in (("data.root", source), ("test_root", test), ("validation_root", validation)):
        if found is not None and not len(found):
            raise UserError(f"{what}: no images; expected at least one")
    if source.labels is not None:
        if test is not None:
            test = in_classes_of(source, test, "test_root" if request.test_root else "data.root: the test images")
        if validation is not None:
            validation = in_classes_of(source, validation, "validation_root")
    train, notes = whole(source, "train"), ()
    if test is None:
        train, measured = _held_out(train, request.seed)
        notes = (f"no test images: {len(measured):,} of the {len(source):,} images are held out to measure on",)
    else:
        measured = whole(test, "test")
    return Images(
        train=train.drawn(request.max_train, request.seed),
        test=measured.drawn(request.max_test, request.seed),
        validation=None if validation is None else whole(validation, "validation"),
        extra_tests={name: _extra(name, root, source.min_size) for name, root in request.extra_tests.items()},
        notes=notes,
    )


def _at(overrides: Sequence[str], key: str, root: str) -> Source:
    """The same kind of source at another place."""
    others = [word for word in overrides if not re.match(r"\+*data\.root=", word)]
    try:
        config = compose_config("evaluate", [*others, f"data.root={quoted(root)}"])
        return build_source(config)
    except UserError as error:
        raise UserError(re.sub(r"^data(\.source)?\.root", key, str(error))) from error


def _extra(name: str, root: str, min_size: int) -> Split:
    try:
        source = FolderSource(root=root, min_size=min_size)
    except UserError as error:
        raise UserError(str(error).replace("data.root", f"extra_tests.{name}", 1)) from error
    if source.labels is None:
        raise UserError(f"extra_tests.{name}: {root} has no labels; expected one sub-folder of images per class")
    return whole(source, name)


def _held_out(split: Split, seed: int) -> tuple[Split, Split]:
    source = split.source
    if source.labels is not None:
        kept, held = held_out(split.labels, HELD_OUT, seed, source.classes, hint="test_root=...")
    else:
        kept, held = random_part(len(split), HELD_OUT, seed)
    return split.part(kept), split.part(held, "test")
