"""The students of a run as learners: state, checkpoints, records and evaluation of each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from dinotrain.commands.assembly import Plan, build_state
from dinotrain.commands.config import without_secrets
from dinotrain.commands.opening import begin_with, frozen_steps, opening_words
from dinotrain.commands.parameter_table import parameter_table
from dinotrain.commands.resume import checkpoint_to_resume, record, recorded_frozen_steps
from dinotrain.commands.settings import Settings
from dinotrain.commands.validation import Validation
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.reporting.energy import gpu_power
from dinotrain.reporting.environment import environment
from dinotrain.training.advice import Advisor
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.display import Display
from dinotrain.training.learner import Learner
from dinotrain.training.manifest import checkpoint_step
from dinotrain.training.metrics import MetricsFile
from dinotrain.training.recorder import Recorder
from dinotrain.training.state import TrainState
from dinotrain.training.trackers import Trackers
from dinotrain.weights.weights import Weights


def agree(key: str, seen: str | None, world: World) -> None:
    """Make sure that all processes have the same there.

    Raises:
        UserError: if they don't.
    """
    found = {str(one) for one in world.gather(seen)}
    if len(found) > 1:
        raise UserError(f"{key}: the processes see different things there ({', '.join(sorted(found))})")


@dataclass(frozen=True)
class Entry:
    """A student before anybody looks at its records."""

    settings: Settings
    state: TrainState
    checkpointer: Checkpointer
    start: Path | None
    """The checkpoint that it goes on from."""
    frozen_steps: int
    opening: str | None
    """What it began with, in words; None for random weights, and for a student that goes on."""


def enter(
    settings: Settings, opening: Weights | None, plan: Plan, world: World, mesh: DeviceMesh, method: nn.Module
) -> Entry:
    """Build a student, and choose the checkpoint that it goes on from; without one it begins with `opening`.

    Raises:
        UserError: if what it is to begin with does not fit, or differs between processes.
    """
    # The main process chooses: what lies in a shared folder may look different elsewhere.
    start = world.gather(checkpoint_to_resume(settings) if world.main else None)[0]
    opening = opening if start is None else None
    # Each process fills its shards from what it reads itself.
    agree("train.start_from", opening and opening.digest(), world)
    frozen = frozen_steps(settings, opening) if start is None else recorded_frozen_steps(start)
    state = build_state(settings, plan, world, mesh, method)
    words = None
    if opening is not None:
        words = opening_words(settings, opening, begin_with(state, opening), frozen)
    checkpointer = Checkpointer(
        settings.run_dir / "checkpoints",
        world,
        keep_last=settings.checkpoint.keep_last,
        keep_every=settings.checkpoint.keep_every,
        config=settings.text,
        record=record(settings, start, frozen),
    )
    return Entry(settings, state, checkpointer, start, frozen, words)


def restore(entries: Sequence[Entry]) -> None:
    """Load the checkpoints; the method, which all students share, ends as that of the one that is behind.

    Raises:
        UserError: if one is damaged or does not fit.
    """
    method = entries[0].state.method
    fresh = copy.deepcopy(method.state_dict())
    for entry in sorted(entries, key=lambda entry: checkpoint_step(entry.start) if entry.start else 0, reverse=True):
        if entry.start is None:
            method.load_state_dict(fresh)
            continue
        try:
            entry.checkpointer.load(entry.start, entry.state)
        except ValueError as error:
            raise UserError(str(error)) from error


def learners_of(
    entries: Sequence[Entry],
    plan: Plan,
    world: World,
    display: Display,
    teacher: FrozenTeacher | None,
    stack: ExitStack,
    stopped: Callable[[], bool],
) -> list[Learner]:
    """The students with their records, brought to their states' steps, and their evaluations.

    Args:
        stopped: whether an evaluation is to end; all processes call it together.
    """
    found, known = [], {}
    for entry in entries:
        settings, state = entry.settings, entry.state
        recorder = _recorder(settings, plan, state, world, display, stack)
        validation = Validation(settings, state.ema.backbone, world, teacher, known, stopped=stopped)
        found.append(
            Learner(
                settings.student,
                state,
                recorder,
                entry.checkpointer,
                validation,
                settings.run_dir,
                baselines=validation.baselines,
            )
        )
    return found


def _recorder(
    settings: Settings, plan: Plan, state: TrainState, world: World, display: Display, stack: ExitStack
) -> Recorder:
    run_dir, logging, config = settings.run_dir, settings.logging, settings.config
    metrics = MetricsFile(run_dir / "metrics.jsonl")
    restarted = world.main and bool(metrics.rows())
    if world.main:
        metrics.truncate(state.step if state.step else -1)
        (run_dir / "config.yaml").write_text(settings.text)
        (run_dir / "environment.json").write_text(json.dumps(environment(world.size), indent=1))
        (run_dir / "parameters.txt").write_text(parameter_table(state.student, state.optimizer))
        (run_dir / "skipped.txt").touch()
    world.barrier()
    trackers = Trackers(
        run_dir,
        wandb=logging.wandb if world.main else "disabled",
        wandb_project=logging.wandb_project,
        tensorboard=logging.tensorboard and world.main,
        config=without_secrets(config),
    )
    stack.callback(trackers.close)
    rows = metrics.rows() if state.step else []
    head = config.method.get("dino_head")
    return Recorder(
        world,
        metrics=metrics,
        display=display,
        trackers=trackers,
        advisor=Advisor(num_prototypes=head and head.num_prototypes, rows=rows, images=plan.micro_batch),
        skips=SkipLog(run_dir / "skipped.txt", length=len(settings.source), max_fraction=config.data.max_broken),
        gpu_power=gpu_power,
        earlier_seconds=max((row.get("time") or 0.0 for row in rows), default=0.0),
        restarted=restarted,
        name=settings.student,
    )
