"""One conversion, from a checked configuration to the closing table."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.preparation_options import PreparationOptions
from dinotrain.commands.preparation_table import show
from dinotrain.commands.sources import build_source
from dinotrain.data.source import Source
from dinotrain.data.storage.remote import is_remote, shown
from dinotrain.errors import UserError
from dinotrain.preparing.closing import close
from dinotrain.preparing.conversion import Conversion
from dinotrain.preparing.converter import Converter
from dinotrain.preparing.display import Display, duration
from dinotrain.preparing.duplicates import DigestTable
from dinotrain.preparing.output import Output
from dinotrain.preparing.progress import Progress
from dinotrain.preparing.sequence import ImageSequence
from dinotrain.preparing.survey import Survey

STOPPED = 130
"""Exit status after a Ctrl-C."""


def prepare(config: DictConfig) -> int:
    """Convert as configured, going on after the shards that are complete; returns the exit status.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    groups = ("data", "storage")
    keys = {str(key): value for key, value in config.items() if key not in groups}
    try:
        options = PreparationOptions(**keys)
    except ValueError as error:
        raise UserError(str(error)) from error
    _check_place(options.folder, config)
    source = _source(config, options.split)
    fingerprint = source.fingerprint()
    decisive = {**options.decisive, "min_size": source.min_size, "source": fingerprint}
    with Output(options.folder, decisive) as output:
        summary = output.summary()
        if summary is not None:
            print(f"already done: {options.folder} is complete")
            show(summary, options.folder, [])
            return 0
        return _convert(source, options, output, _origin(config, source, fingerprint))


def _convert(source: Source, options: PreparationOptions, output: Output, origin: dict[str, Any]) -> int:
    sequence = ImageSequence(source, shuffle=options.shuffle, seed=options.seed, limit=options.limit)
    begin = time.monotonic()
    try:
        with _terminated_as_interrupted():
            converter = _converter(source, sequence, options, output, _survey(source, sequence, options, output))
            print(_start(converter.progress, output, options), flush=True)
            already = converter.progress.looked_at
            with Display(converter.progress) as display:
                converter.run(options.processes, display.report)
            seconds = max(time.monotonic() - begin, 1e-9)
            summary = close(source, output, labels=options.labels, origin=origin)
    except KeyboardInterrupt:
        print(_stopped(output, len(sequence)), file=sys.stderr)
        return STOPPED
    pace = f"{duration(seconds)}, {(len(sequence) - already) / seconds:,.0f} images/s"
    show(summary, options.folder, [("time", f"{pace} with {_workers(options)}")])
    return 0


def _survey(source: Source, sequence: ImageSequence, options: PreparationOptions, output: Output) -> Survey | None:
    """For near duplicates, all images are looked at before the first is converted."""
    if options.duplicates != "near":
        return None
    survey = Survey(source, sequence, near_distance=options.near_distance, folder=output.scratch)
    try:
        with Display(survey.progress) as display:
            survey.run(options.processes, display.report)
    except OSError as error:
        raise UserError(f"out: can't write to {output.scratch} ({error.strerror})") from error
    return survey


def _converter(
    source: Source, sequence: ImageSequence, options: PreparationOptions, output: Output, survey: Survey | None
) -> Converter:
    return Converter(
        source,
        sequence,
        # What was surveyed has been decoded.
        Conversion(
            resize_short=options.resize_short,
            quality=options.quality,
            verify=options.verify and survey is None,
        ),
        output,
        shard_size=options.shard_bytes,
        exact=DigestTable() if options.duplicates == "exact" else None,
        survey=survey,
        labels=options.labels,
        max_broken=options.max_broken,
    )


def _source(config: DictConfig, split: str) -> Source:
    source = build_source(config)
    if split == "train":
        return source
    test = source.test()
    if test is None:
        raise UserError("split: test, but this source has no test images of its own; expected train")
    return test


def _origin(config: DictConfig, source: Source, fingerprint: str) -> dict[str, Any]:
    """What the summary says of where the images come from; URLs without passwords and signatures."""
    data = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(data, dict)
    entries = data.get("sources") or [data]
    roots = [shown(root) if is_remote(root) else root for entry in entries if (root := entry.get("root"))]
    kind = str(data["source"]["_target_"]).rpartition(".")[2]
    return {"kind": kind, "roots": roots, "images": len(source), "fingerprint": fingerprint}


def _check_place(folder: Path, config: DictConfig) -> None:
    """Raises `UserError` if what is written would be found among what is read."""
    root = config.data.get("root")
    if not isinstance(root, str) or not (top := Path(root).expanduser()).is_dir():
        return
    if folder.resolve().is_relative_to(top.resolve()):
        raise UserError(f"out: {folder} lies in data.root ({root}); expected a folder elsewhere")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within it, SIGTERM is answered like a Ctrl-C."""

    def stop(_: int, __: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(progress: Progress, output: Output, options: PreparationOptions) -> str:
    if not output.shards:
        return f"converting {progress.total:,} images to {output.folder} with {_workers(options)}"
    return (
        f"going on after {output.shards} complete shards ({progress.looked_at:,} of {progress.total:,} images) "
        f"with {_workers(options)}"
    )


def _stopped(output: Output, total: int) -> str:
    end = max((record.end for record in output.records()), default=0)
    return (
        f"stopped: {output.shards} shards are complete ({end:,} of {total:,} images); "
        "the same command goes on from there"
    )


def _workers(options: PreparationOptions) -> str:
    return f"{options.processes} worker{'s' * (options.processes > 1)}"
