"""One training run, from a checked configuration to the closing table."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import torch
from omegaconf import DictConfig

from dinotrain.commands.assembly import Plan, build_loader, build_method, build_networks, build_state, settle
from dinotrain.commands.banner import banner
from dinotrain.commands.config import without_secrets
from dinotrain.commands.parameter_table import parameter_table
from dinotrain.commands.results import conclude
from dinotrain.commands.resume import checkpoint_to_resume, record
from dinotrain.commands.settings import Settings
from dinotrain.commands.validation import Validation
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.world import World, join_world
from dinotrain.errors import UserError
from dinotrain.reporting.energy import gpu_power
from dinotrain.reporting.environment import environment
from dinotrain.training.advice import Advisor
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.display import Display
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.loop import due, train
from dinotrain.training.metrics import MetricsFile
from dinotrain.training.recorder import Recorder
from dinotrain.training.state import TrainState
from dinotrain.training.trackers import Trackers


def pretrain(config: DictConfig) -> None:
    """Train as configured, going on from what is in the run folder.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    settings = Settings.of(config)
    device = choose_device(settings.runtime.device)
    # What is wrong with these is said before anything starts.
    build_networks(config)
    build_method(config, torch.device("meta"))
    checkpoint_to_resume(settings)
    make_folder(settings)
    # Signals are caught once all processes are there: until then there is nothing to save, and nobody to agree with.
    with join_world(device, settings.parallel.timeout_minutes) as world, Interrupt() as interrupt:
        plan = settle(settings, world, len(os.sched_getaffinity(0)))
        start = agree(settings, world)
        state = build_state(settings, plan, world)
        checkpointer = Checkpointer(
            settings.run_dir / "checkpoints",
            world,
            keep_last=settings.checkpoint.keep_last,
            keep_every=settings.checkpoint.keep_every,
            config=settings.text,
            record=record(settings, start),
        )
        if start is not None:
            try:
                checkpointer.load(start, state)
            except ValueError as error:
                raise UserError(str(error)) from error
        with ExitStack() as stack:
            recorder = open_recorder(settings, plan, state, world, stack)
            if world.main:
                recorder.display.banner(banner(settings, plan, state, world))
                if start is not None:
                    recorder.display.message(resume_message(state.step, settings.recipe.steps, start))
                if settings.source.left_out:
                    recorder.display.warning(record_left_out(settings))
            _train_and_conclude(settings, plan, state, world, recorder, checkpointer, interrupt)


def make_folder(settings: Settings) -> None:
    """Make the run folder.

    Raises:
        UserError: if it can't be made or written to.
    """
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        (settings.run_dir / "config.yaml").open("a").close()
    except OSError as error:
        raise UserError(f"output_dir: can't write to {settings.run_dir} ({error.strerror})") from error


def agree(settings: Settings, world: World) -> Path | None:
    """The main process's choice of a checkpoint: what lies in a shared folder may look different elsewhere.

    Raises:
        UserError: if the processes don't have the same images.
    """
    seen = set(world.gather(settings.fingerprint))
    if len(seen) > 1:
        raise UserError(f"data.root: the processes see different images there ({', '.join(sorted(seen))})")
    return world.gather(checkpoint_to_resume(settings) if world.main else None)[0]


def resume_message(step: int, steps: int, checkpoint: Path) -> str:
    """What is said when a run is not started but found."""
    if step == steps:
        return f"already finished: all {steps} steps are done"
    return f"going on from {checkpoint} (step {step} of {steps})"


def record_left_out(settings: Settings) -> str:
    """Lists the parts of the data that could not be listed, in a file of the run folder; returns what to say of it."""
    parts, file = settings.source.left_out, settings.run_dir / "left_out.txt"
    file.write_text("".join(f"{part.name}\t{part.reason}\n" for part in parts), "utf-8")
    number = "1 part" if len(parts) == 1 else f"{len(parts)} parts"
    return f"data: {number} left out (the first: {parts[0].name}: {parts[0].reason}); all in {file}"


def choose_device(name: str) -> str:
    """ "cuda" or "cpu".

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device: cuda, but torch finds no GPU here; expected runtime.device=cpu or auto")
    return name


def open_recorder(settings: Settings, plan: Plan, state: TrainState, world: World, stack: ExitStack) -> Recorder:
    """The run folder's files brought to the state's step, and all that writes to them."""
    run_dir, logging = settings.run_dir, settings.logging
    metrics = MetricsFile(run_dir / "metrics.jsonl")
    if world.main:
        metrics.truncate(state.step if state.step else -1)
        (run_dir / "config.yaml").write_text(settings.text)
        (run_dir / "environment.json").write_text(json.dumps(environment(), indent=1))
        (run_dir / "parameters.txt").write_text(parameter_table(state.student, state.optimizer))
        (run_dir / "skipped.txt").touch()
    world.barrier()
    display = stack.enter_context(Display(settings.recipe.steps, interactive=None if world.main else False))
    trackers = Trackers(
        run_dir,
        wandb=logging.wandb if world.main else "disabled",
        wandb_project=logging.wandb_project,
        tensorboard=logging.tensorboard and world.main,
        config=without_secrets(settings.config),
    )
    stack.callback(trackers.close)
    rows = metrics.rows() if state.step else []
    config = settings.config
    return Recorder(
        world,
        metrics=metrics,
        display=display,
        trackers=trackers,
        advisor=Advisor(num_prototypes=config.method.dino_head.num_prototypes, rows=rows, images=plan.micro_batch),
        skips=SkipLog(run_dir / "skipped.txt", length=len(settings.source), max_fraction=config.data.max_broken),
        student_temperature=config.method.objective.student_temperature,
        gpu_power=gpu_power,
        earlier_seconds=max((row.get("time") or 0.0 for row in rows), default=0.0),
    )


def _train_and_conclude(
    settings: Settings,
    plan: Plan,
    state: TrainState,
    world: World,
    recorder: Recorder,
    checkpointer: Checkpointer,
    interrupt: Interrupt,
) -> None:
    config, recipe = settings.config, settings.recipe
    validation = Validation(settings, state.teacher.backbone, world)
    if state.step == 0 and (baselines := validation.baselines()).numbers:
        recorder.evaluation(baselines, 0)
    elif 0 < state.step < recipe.steps:
        recorder.event("resume", state.step)
    if owed(recorder, state.step, recipe.steps, config.evaluation.every):
        recorder.evaluation(validation(state.step), state.step)
    try:
        finished = train(
            state,
            iter(build_loader(settings, plan, world, state.step, recorder.display.warning)),
            recipe.schedules(),
            steps=recipe.steps,
            micro_batches=plan.accumulation,
            clip_grad=recipe.clip_grad,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint.every,
            evaluate_every=config.evaluation.every,
            evaluate=validation,
            world=world,
            recorder=recorder,
            checkpointer=checkpointer,
            interrupt=interrupt,
            run_dir=settings.run_dir,
        )
    except UserError:
        checkpointer.settle()
        if world.main:
            conclude(settings, recorder, state)
        raise
    if not finished:
        recorder.event("interrupted", state.step)
    elif owed(recorder, state.step, recipe.steps, config.evaluation.every):
        recorder.evaluation(validation(state.step), state.step)
    if world.main:
        if not finished:
            text = f"stopped at step {state.step} of {recipe.steps}, saved; the same command goes on from here"
            recorder.display.message(text)
        conclude(settings, recorder, state)


def owed(recorder: Recorder, step: int, steps: int, every: int | None) -> bool:
    """Whether the evaluation after `step` is due and not on record: the end comes without it, and so may a resume."""
    if step == 0 or not (step == steps or due(step, every)):
        return False
    done = any(row["step"] == step and row.get("evaluated") for row in recorder.metrics.rows())
    return recorder.world.any(recorder.world.main and not done)
