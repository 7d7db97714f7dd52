"""One prediction, from what was typed to the last answer."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.build import build
from dinotrain.commands.config import compose_config
from dinotrain.commands.entry import print_config
from dinotrain.commands.prediction_model import classifier_model
from dinotrain.commands.prediction_options import PredictionOptions
from dinotrain.commands.prediction_words import split_words
from dinotrain.errors import Status, UserError
from dinotrain.evaluation.reading import MOST_THREADS
from dinotrain.intake.limits import Limits
from dinotrain.predicting.images import named_images
from dinotrain.predicting.model import Model
from dinotrain.predicting.output import Csv, JsonLines, Table, Writer
from dinotrain.predicting.stream import Answered, answers
from dinotrain.reporting.environment import usable_cores

EXAMPLE = "a run of finetune, or its classifier.safetensors, e.g. model=runs/flowers"
GROUPS = ("model", "limits", "urls")


def predict(words: Sequence[str]) -> Status:
    """Tell the classes of the images that were typed.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    typed = split_words(words, example=EXAMPLE)
    if typed.config:
        return print_config("predict", typed.overrides)
    config = compose_config("predict", typed.overrides)
    if not typed.others:
        raise UserError("images: got none, expected files, folders, URLs, or - for base64 on standard input")
    options = options_of(config, PredictionOptions, GROUPS)
    limits: Limits = build(config.limits)
    fetcher = build(config.urls)
    model = classifier_model(config.model.path, device=options.device, precision=options.precision)
    thresholds = thresholds_of(model, options.threshold)
    found = answers(
        named_images(typed.others, limits=limits, fetcher=fetcher),
        ask=model.probabilities,
        prepare=model.preparation.pixels,
        limits=limits,
        batch=options.batch,
        threads=options.threads or min(usable_cores(), MOST_THREADS),
    )
    try:
        return _write(found, model, options, thresholds)
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would write what is left at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.DONE


def options_of(config: DictConfig, kind: Any, groups: Sequence[str]) -> Any:
    """The keys that are not of a group, as an object of this kind.

    Raises:
        UserError: for a value that is refused.
    """
    for group in groups:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}: got {config[group]!r}, expected a key of that group, as in {group}.KEY=VALUE")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    try:
        return kind(**{str(key): value for key, value in plain.items() if key not in groups})
    except ValueError as error:
        raise UserError(str(error)) from error


def thresholds_of(model: Model, typed: float | None) -> tuple[float, ...] | None:
    """Of the classes, where they do not exclude each other; None where they do.

    Raises:
        UserError: for a threshold where they do.
    """
    assert model.classifier is not None
    description = model.classifier.description
    if description.labels == "multi":
        return description.thresholds
    if typed is not None:
        raise UserError(
            f"threshold: got {typed}, expected none: the classes of this classifier exclude each other; use top=N"
        )
    return None


def _write(
    found: Iterator[Answered], model: Model, options: PredictionOptions, thresholds: tuple[float, ...] | None
) -> Status:
    writer, form = _writer(options, model), options.answers
    failed = count = 0
    for answered in found:
        count += 1
        if answered.row is None:
            failed += 1
            writer.error(answered.name, answered.error or "")
        else:
            writer.answer(answered.name, form.scored(answered.row, model.classes, thresholds=thresholds), answered.note)
    if failed:
        print(f"{failed:,} of {count:,} images could not be read", file=sys.stderr, flush=True)
    return Status.FAILED if failed else Status.DONE


def _writer(options: PredictionOptions, model: Model) -> Writer:
    if options.chosen_format == "table":
        return Table(sys.stdout, sys.stderr, width=shutil.get_terminal_size().columns)
    if options.chosen_format == "csv":
        return Csv(sys.stdout, options.answers, model.classes)
    return JsonLines(sys.stdout, options.answers)
