"""Looking at a set of images before training on it, from a checked configuration to the command to type."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from dinotrain.commands.assembly import augments_in_workers, divide_batch
from dinotrain.commands.build import build
from dinotrain.commands.inspect_options import InspectOptions
from dinotrain.commands.inspection_words import (
    advice_on_sizes,
    advice_on_workers,
    broken_rows,
    crop_rows,
    file_rows,
    preparation_command,
    set_rows,
    side_rows,
    stored_side,
    throughput_rows,
    training_command,
)
from dinotrain.commands.settings import Settings
from dinotrain.data.progress import progress
from dinotrain.data.skips import SkipLog
from dinotrain.data.worker import Recipe
from dinotrain.errors import UserError
from dinotrain.evaluation.pictures import save_picture
from dinotrain.inspection.enlargement import enlargement
from dinotrain.inspection.examples import examples
from dinotrain.inspection.picture import crop_picture
from dinotrain.inspection.survey import Survey, survey
from dinotrain.inspection.throughput import Measurement, Throughput, recommended, worker_counts
from dinotrain.training.display import Display

SHOWN = 10
"""Broken files that are named on the screen."""
MOST_MEASURED = 32
"""Images of a batch in measurements: enough to fetch remote ones together, few enough for short measurements."""


def inspect(config: DictConfig, overrides: Sequence[str]) -> None:
    """Show what the trainer would see.

    Args:
        config: of the command, which is that of a training run and the group `inspect`.
        overrides: what was typed.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    settings = Settings.of(config)
    options: InspectOptions = build(config.inspect)
    for key, name in (("out", options.out if options.pictures else None), ("broken", options.broken)):
        if name is not None:
            _check_writable(f"inspect.{key}", Path(name))
    with Display(settings.recipe.steps) as display:
        display.banner(set_rows(settings))
        _survey(settings, options, overrides, display)
        if options.pictures:
            _draw(settings, options, display)
        workers = _measure(settings, options, display) if options.seconds else None
        display.message("\ntrain with")
        _show_command(training_command(overrides, workers))


def _show_command(command: str) -> None:
    """On a line of its own that no terminal breaks, so that it can be copied."""
    print(f"  {command}", flush=True)


def _check_writable(key: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise UserError(f"{key}: can't write to {path} ({error.strerror})") from error


def _survey(settings: Settings, options: InspectOptions, overrides: Sequence[str], display: Display) -> None:
    """Say what the files are, and what training would do about those that can't be used."""
    source = settings.source
    total = len(source) if options.images is None else min(options.images, len(source))
    with progress("Reading images", total, "images") as report:
        found = survey(source, options.images, report)
    if not display.interactive:
        display.message("")
    display.banner(file_rows(found))
    known = found.widths > 0
    sizes = None
    if known.any():
        widths, heights = found.widths[known], found.heights[known]
        sizes = enlargement(settings.crops, widths, heights, settings.config.seed)
        columns = ["pixels", "least", "5 %", "median", "95 %", "greatest"]
        display.table(f"sizes of {len(widths):,} images", columns, side_rows(widths, heights))
    rows = crop_rows(settings.crops, sizes) if sizes is not None else []
    display.banner(rows + broken_rows(found, len(source.left_out), settings.config.data.max_broken))
    _name_broken(found, options, display)
    if len(found.broken) == found.read:
        first = found.broken[0]
        raise UserError(
            f"data.root: none of the {found.read:,} images that were read can be used "
            f"(the first: {first.name}: {first.reason})"
        )
    if sizes is not None and (advice := advice_on_sizes(found, settings.crops, sizes[0])):
        display.message(advice)
        if side := stored_side(found, settings.crops):
            _show_command(preparation_command(overrides, side))


def _name_broken(found: Survey, options: InspectOptions, display: Display) -> None:
    for name, reason in found.broken[:SHOWN]:
        display.message(f"  {name}: {reason}")
    rest = len(found.broken) - SHOWN
    if rest > 0:
        hint = "" if options.broken else "; inspect.broken=FILE lists all"
        display.message(f"  and {rest:,} more{hint}")
    if options.broken is not None:
        Path(options.broken).write_text("")
        SkipLog(options.broken, length=found.total, max_fraction=1.0).add(found.broken)
        display.message(f"list of the broken images: {options.broken}")


def _draw(settings: Settings, options: InspectOptions, display: Display) -> None:
    """The picture of the first images of the run."""
    config = settings.config
    shown = examples(
        source=settings.source,
        crops=settings.crops,
        augment=settings.augment,
        masks=settings.masks,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        seed=config.seed,
        count=options.pictures,
    )
    which = "first image" if len(shown) == 1 else f"first {len(shown)} images"
    picture = crop_picture(shown, f"The {which} of the run, as the student gets them")
    try:
        save_picture(picture, Path(options.out))
    except (OSError, ValueError) as error:  # too large for its format, no more room
        raise UserError(f"inspect.out: can't write {options.out} ({error})") from error
    display.message(f"\npicture of the crops of the {which} of the run: {options.out}")


def _measure(settings: Settings, options: InspectOptions, display: Display) -> int:
    """Measure throughput by number of workers, say what to make of it; returns the number that is recommended."""
    config, recipe, runtime = settings.config, settings.recipe, settings.runtime
    on_gpu = runtime.device == "cuda" or (runtime.device == "auto" and torch.cuda.is_available())
    inside = augments_in_workers(runtime, "cuda" if on_gpu else "cpu")
    cores = len(os.sched_getaffinity(0))
    micro, _ = divide_batch(recipe.global_batch, 1, micro_batch=recipe.micro_batch, limit=recipe.micro_batch_limit)
    throughput = Throughput(
        recipe=Recipe(
            source=settings.source,
            crops=settings.crops,
            augment=settings.augment,
            masks=settings.masks,
            seed=config.seed,
            augment_here=inside,
        ),
        batch=min(micro, MOST_MEASURED),
        prefetch=runtime.prefetch,
        seconds=options.seconds,
        warn=display.warning,
    )
    counts = worker_counts(options.max_workers or cores)
    found: list[Measurement] = []
    with progress("Measuring throughput", len(counts), "measurements") as report:
        for workers in counts:
            found.append(throughput.measure(workers, lambda: report(len(found))))
    display.table(
        f"workers that read, cut{' and augment' if inside else ''} images",
        ["workers", "images/s", "processor ms per image", "waiting for data", "without a core"],
        throughput_rows(found),
    )
    for line in advice_on_workers(found, cores):
        display.message(line)
    return recommended(found).workers
