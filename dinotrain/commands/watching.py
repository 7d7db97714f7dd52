"""Evaluating each checkpoint of a run as it appears."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dinotrain.commands.ending import Attempt, Ended
from dinotrain.commands.evaluation import LONGEST_MINUTES, STOPPED_AT_ONCE, Evaluation, Stopped, identity_of
from dinotrain.commands.evaluation_place import FOLDER
from dinotrain.commands.recognition import quoted
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.reporting.run_folder import object_of, text_of
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.manifest import complete_checkpoints
from dinotrain.weights.read import read_weights

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Typed:
    """What was typed."""

    run: Path
    overrides: list[str]
    once: bool
    poll: float


def watch(words: Sequence[str], attempt: Attempt, interrupt: Interrupt | None = None) -> Ended:
    """Evaluate the checkpoints that are there and those to come, until the run is finished.

    Args:
        interrupt: what catches signals already; None to do so here.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    typed = read_words(words)
    evaluation = Evaluation(typed.overrides)
    attempt.run_dir = typed.run / FOLDER
    try:
        attempt.run_dir.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"watch: can't write to {attempt.run_dir} ({error.strerror})") from error
    seen: list[str] = []
    with ExitStack() as stack:
        world = attempt.join(evaluation.device(), stack, start_minutes=LONGEST_MINUTES, minutes=LONGEST_MINUTES)
        interrupt = interrupt or stack.enter_context(Interrupt(at_once=STOPPED_AT_ONCE))
        try:
            _follow(typed, evaluation, seen, world, interrupt)
        except Stopped:
            if world.main:
                print("stopped; the same command goes on", file=sys.stderr, flush=True)
            return Ended(len(seen), len(seen), interrupt.agree(world), done=False, unit="checkpoints")
    if world.main:
        attempt.reports().clear()
    return Ended(len(seen), len(seen), None, done=True, unit="checkpoints")


def read_words(words: Sequence[str]) -> Typed:
    """Tell apart what is for watching and what for the evaluation.

    Raises:
        UserError: if there is no such run, or a word is refused.
    """
    runs = [word for word in words if "=" not in word]
    if len(runs) != 1 or runs[0].startswith("-"):
        raise UserError(f"watch: got {' '.join(runs) or 'no run'}, expected the folder of one run, and then key=value")
    run = Path(runs[0])
    if not (run / "config.yaml").exists():
        raise UserError(f"watch: {run} is not a run folder (there is no config.yaml in it)")
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in ("once", "poll")}
    given = [word for word in words if word.startswith(("weights=", "output_dir=", "name="))]
    if given:
        raise UserError(f"{given[0]}: watch evaluates the checkpoints of {run}, each in a folder of its own")
    if own.get("once", "false") not in ("true", "false"):
        raise UserError(f"once: got {own['once']}, expected true or false")
    try:
        poll = float(own.get("poll", 30))
    except ValueError:
        poll = 0.0
    if not poll > 0:
        raise UserError(f"poll: got {own['poll']}, expected seconds above 0")
    overrides = [word for word in words if "=" in word and word.partition("=")[0] not in ("once", "poll")]
    if not any(word.startswith("cache=") for word in overrides):
        # Nobody will ask for the features of a checkpoint again.
        overrides.append("cache=false")
    # Replaced by each checkpoint; the rest can be checked before there is one.
    return Typed(run, [*overrides, f"weights={quoted(str(run))}"], own.get("once") == "true", poll)


def _follow(typed: Typed, evaluation: Evaluation, seen: list[str], world: World, interrupt: Interrupt) -> None:
    while True:
        finished = object_of(text_of(typed.run / "results.json")).get("finished") is True
        found = [path.name for path in complete_checkpoints(typed.run / "checkpoints")]
        new, last = world.gather(([name for name in found if name not in seen], finished or typed.once))[0]
        for name in new:
            seen.append(name)
            _evaluate(typed.run / "checkpoints" / name, evaluation, world, interrupt)
        if not new and last:
            return
        if not new:
            _wait(typed.poll, world, interrupt)


def _evaluate(checkpoint: Path, evaluation: Evaluation, world: World, interrupt: Interrupt) -> None:
    request = evaluation.request
    problem, weights, identity = None, None, ""
    try:
        weights = read_weights(str(checkpoint), part=request.part, num_heads=request.num_heads).without_heads()
        # Training may remove it at any moment: from here on it is not needed any more.
        weights = replace(weights, backbone={name: weights.backbone[name].clone() for name in weights.backbone})
        identity = identity_of(weights)
    except (UserError, OSError) as error:
        problem = str(error)
    if world.any(problem is not None) or weights is None:
        if world.main:
            print(f"skipped: {problem or checkpoint}", file=sys.stderr, flush=True)
        return
    folder = evaluation.folder(weights, identity)
    if world.any(world.main and evaluation.is_done(folder)):
        if world.main:
            print(f"{checkpoint.name} is evaluated already: {folder}", flush=True)
        return
    evaluation.of(weights, identity, folder, world, interrupt)


def _wait(seconds: float, world: World, interrupt: Interrupt) -> None:
    until = time.monotonic() + seconds
    while world.any(time.monotonic() < until):
        world.at("waiting for a checkpoint", patient=True)
        if interrupt.anywhere(world):
            raise Stopped
        time.sleep(min(LOOK_SECONDS, seconds))
