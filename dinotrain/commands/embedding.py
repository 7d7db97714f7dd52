"""One extraction of features, from what was typed to the closing lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

import numpy as np

from dinotrain.commands.config import compose_config
from dinotrain.commands.embedding_job import Job, job_of, request_of
from dinotrain.commands.embedding_neighbours import read_queries, show_neighbours
from dinotrain.commands.ending import Attempt
from dinotrain.commands.evaluation import Stopped
from dinotrain.commands.settings import check_data
from dinotrain.data.progress import progress
from dinotrain.distributed.world import World
from dinotrain.embedding.collected import Collected
from dinotrain.embedding.extraction import extract_pieces
from dinotrain.embedding.parts import Parts
from dinotrain.embedding.tokens import token_function
from dinotrain.errors import Status, UserError
from dinotrain.evaluation.reading import MOST_THREADS
from dinotrain.extras import require
from dinotrain.reporting.environment import usable_cores
from dinotrain.training.interrupt import Interrupt

LONGEST_MINUTES = 60.0
"""That an extraction may stand still."""
SHOWN_SKIPS = 5


def embed(overrides: Sequence[str], attempt: Attempt) -> Status:
    """Extract the features that were asked for, and look for neighbours.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    assert attempt.place is not None
    config = compose_config("embed", overrides)
    request = request_of(config)
    check_data(config.data)
    if request.path.suffix == ".parquet":
        require("pyarrow", extra="data", what=f"out={request.out}")
    queries = read_queries(request.neighbours)
    job = job_of(config, request, attempt.place)
    main = attempt.place.rank == 0
    if not request.again and job.output.is_done(job.about):
        if main:
            print(f"already done: {job.output.path}")
    elif not _extracted(job, attempt):
        return Status.STOPPED
    if main and queries:
        show_neighbours(queries, job.backbone, job.output, job.source, request.k)
    return Status.DONE


def _extracted(job: Job, attempt: Attempt) -> bool:
    """Whether the file is there now; else a stop was asked for."""
    assert attempt.place is not None
    parts, main = Parts(job.output.parts, job.plan), attempt.place.rank == 0
    attempt.run_dir = parts.folder
    with ExitStack() as alone:
        if main:
            begin = job.output.remove if job.request.again else lambda: None
            alone.enter_context(parts.opened(job.about, begin))
            _introduce(job, parts, attempt.place.size)
        start = time.monotonic()
        with ExitStack() as stack:
            world = attempt.join(job.about["device"], stack, start_minutes=LONGEST_MINUTES, minutes=LONGEST_MINUTES)
            interrupt = stack.enter_context(Interrupt(at_once="stopped at once; what is done is kept"))
            try:
                _agree(world, job, parts)
                images = _extract(job, parts, world, interrupt)
            except Stopped:
                if main:
                    print("stopped; what is done is kept, the same command goes on", file=sys.stderr, flush=True)
                interrupt.agree(world)
                return False
        seconds = max(time.monotonic() - start, 1e-9)
        # The others are at their end: to join all pieces may take longer than processes wait for each other.
        if main:
            _join(job, parts, images, seconds)
    return True


def _extract(job: Job, parts: Parts, world: World, interrupt: Interrupt) -> int:
    def check() -> None:
        if interrupt.anywhere(world):
            raise Stopped

    missing = sum(len(parts.plan.images(piece)) for piece in world.gather(parts.missing())[0])
    backbone = job.backbone
    if world.device != backbone.device:
        backbone.network.to(world.device)
        backbone.device = world.device
    with progress("Embedding", missing, "images") if missing else nullcontext(lambda done: None) as report:
        return extract_pieces(
            token_function(backbone, job.output.columns),
            job.source,
            parts,
            preparation=backbone.preparation,
            world=world,
            dtype=np.dtype(job.request.dtype),
            threads=job.request.threads or min(max(usable_cores() // world.local_size, 1), MOST_THREADS),
            check=check,
            report=report,
        )


def _agree(world: World, job: Job, parts: Parts) -> None:
    """All processes see the same weights, images and folder.

    Raises:
        UserError: if they don't.
    """
    about = dict(job.about)
    if world.any(world.gather(about)[0] != about):
        raise UserError("weights or images differ between processes; expected the same files for all of them")
    if world.any(not parts.folder.is_dir()):
        raise UserError(f"out: not all processes see {parts.folder}; expected a folder that all machines share")


def _introduce(job: Job, parts: Parts, processes: int) -> None:
    columns, plan = job.output.columns, job.plan
    left = sum(len(plan.images(piece)) for piece in parts.missing())
    arrays = ", ".join(f"{column.name} {' x '.join(map(str, column.shape))}" for column in columns)
    backbone = job.backbone
    precision = str(backbone.dtype).removeprefix("torch.")
    lines = {
        "weights": f"{job.weights.path}: {job.weights.layout}, {job.weights.architecture.brief()}",
        "images": f"{len(job.source):,} of {job.images}" + (f", {left:,} left to do" if left < len(job.source) else ""),
        "input": f"{backbone.preparation.size} px, {precision}, {processes} x {job.about['device']}",
        "features": f"{arrays}; {job.request.dtype}, {_size(job.row_bytes * len(job.source))}",
        "out": str(job.output.path),
    }
    for name, text in lines.items():
        print(f"{name:<10}{text}")
    for note in job.weights.notes:
        print(f"{'note':<10}{note}")
    sys.stdout.flush()


def _join(job: Job, parts: Parts, computed: int, seconds: float) -> None:
    """One file of all pieces, which are then removed; the closing lines."""
    dtype = np.dtype(job.request.dtype)
    features = Collected(parts, job.source, job.output.columns, dtype)
    _check_broken(features, job.request.max_broken)
    facts = {
        "weights": {"path": job.weights.path, "layout": job.weights.layout, "digest": job.weights.digest()},
        "data": {"name": job.images, "fingerprint": job.source.fingerprint(), "images": len(job.source)},
    }
    job.output.write(features, job.about, facts)
    parts.remove()
    if features.skipped:
        print(f"{len(features.skipped):,} of {len(job.source):,} images could not be read and are in no row:")
        for _, skipped in features.skipped[:SHOWN_SKIPS]:
            print(f"  {skipped.name}: {skipped.reason}")
        print(f"all of them: {job.output.beside('skipped.txt')}")
    path = job.output.path
    print(f"wrote {path}: {len(features):,} images, {_size(path.stat().st_size)}")
    if computed:
        print(f"{computed:,} images in {seconds:,.1f} s, {computed / seconds:,.1f} images/s", flush=True)


def _check_broken(features: Collected, most: float) -> None:
    broken, count = features.skipped, len(features.source)
    if not broken:
        return
    first = f"the first: {broken[0][1].name}: {broken[0][1].reason}"
    if len(broken) == count:
        raise UserError(f"images: none of the {count:,} can be read ({first})")
    if len(broken) > most * count:
        raise UserError(
            f"max_broken: {len(broken):,} of {count:,} images can't be read, more than a share of {most:g} ({first})"
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
