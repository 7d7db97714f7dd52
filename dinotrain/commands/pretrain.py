"""One training run, from a checked configuration to the closing table."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import torch
from omegaconf import DictConfig

from dinotrain.commands.assembly import Plan, build_loader, build_state, settle
from dinotrain.commands.banner import banner
from dinotrain.commands.parameter_table import parameter_table
from dinotrain.commands.resume import checkpoint_to_resume
from dinotrain.commands.settings import Settings
from dinotrain.commands.validation import Validation
from dinotrain.data.skips import SkipLog
from dinotrain.distributed.world import World, join_world
from dinotrain.errors import UserError
from dinotrain.reporting.energy import estimate_energy, gpu_power
from dinotrain.reporting.environment import environment, gpus, usable_cores
from dinotrain.reporting.report import write_report
from dinotrain.training.advice import Advisor
from dinotrain.training.checkpoint import Checkpointer, complete_checkpoints
from dinotrain.training.display import Display
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.loop import train
from dinotrain.training.metrics import MetricsFile
from dinotrain.training.recorder import Recorder, peak_memory_gb
from dinotrain.training.state import TrainState
from dinotrain.training.trackers import Trackers


def pretrain(config: DictConfig) -> None:
    """Train as configured, going on from what is in the run folder.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    settings = Settings.of(config)
    device = choose_device(settings.runtime.device)
    start = checkpoint_to_resume(settings)
    # Signals are caught once all processes are there: until then there is nothing to save, and nobody to agree with.
    with join_world(device, settings.parallel.timeout_minutes) as world, Interrupt() as interrupt:
        plan = settle(settings, world, len(os.sched_getaffinity(0)))
        state = build_state(settings, plan, world)
        checkpointer = Checkpointer(
            settings.run_dir / "checkpoints",
            world,
            keep_last=settings.checkpoint.keep_last,
            keep_every=settings.checkpoint.keep_every,
            config=settings.text,
        )
        if start is not None:
            try:
                checkpointer.load(start, state)
            except ValueError as error:
                raise UserError(str(error)) from error
        with ExitStack() as stack:
            recorder = open_recorder(settings, state, world, stack)
            if world.main:
                recorder.display.banner(banner(settings, plan, state, world))
                if start is not None:
                    recorder.display.message(f"going on from {start} (step {state.step} of {settings.recipe.steps})")
            _train_and_conclude(settings, plan, state, world, recorder, checkpointer, interrupt)


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


def open_recorder(settings: Settings, state: TrainState, world: World, stack: ExitStack) -> Recorder:
    """The run folder's files brought to the state's step, and all that writes to them."""
    run_dir, logging = settings.run_dir, settings.logging
    metrics = MetricsFile(run_dir / "metrics.jsonl")
    if world.main:
        run_dir.mkdir(parents=True, exist_ok=True)
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
        config=settings.config,
    )
    stack.callback(trackers.close)
    rows = metrics.rows() if state.step else []
    config = settings.config
    return Recorder(
        world,
        metrics=metrics,
        display=display,
        trackers=trackers,
        advisor=Advisor(num_prototypes=config.method.dino_head.num_prototypes, rows=rows),
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
    if state.step == recipe.steps:
        recorder.display.message(f"already finished: all {recipe.steps} steps are done")
    elif state.step:
        recorder.event("resume", state.step)
    elif baselines := validation.baselines():
        recorder.evaluation(baselines, 0)
    finished = train(
        state,
        iter(build_loader(settings, plan, world, state.step)),
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
    if not finished:
        recorder.event("interrupted", state.step)
    # A run that was cut off between its last checkpoint and its last evaluation still owes the latter.
    elif world.any(
        world.main and not any("knn_top1" in r and r["step"] == recipe.steps for r in recorder.metrics.rows())
    ):
        recorder.evaluation(validation(state.step), state.step)
    if world.main:
        conclude(settings, recorder, state, finished)


def summarize(rows: list[dict], settings: Settings, state: TrainState, recorder: Recorder, finished: bool) -> dict:
    """The content of results.json, from the run's records."""
    last = {key: value for row in rows for key, value in row.items() if value is not None}
    speeds = sorted(row["images_per_second"] for row in rows if row.get("images_per_second"))
    checkpoints = complete_checkpoints(settings.run_dir / "checkpoints")
    watts = [row["gpu_watts"] for row in rows if row.get("gpu_watts")]
    boards = [gpu["name"] for gpu in gpus()["gpus"] or []][:1] * recorder.world.size
    seconds = max((row.get("time") or 0.0 for row in rows), default=0.0)
    energy = estimate_energy(
        seconds=seconds,
        cores=usable_cores() * recorder.world.size // recorder.world.local_size,
        gpus=boards,
        gpu_watts=sum(watts) / len(watts) if watts else None,
    )
    return {
        **{key: value for key, value in last.items() if key.startswith("knn_")},
        "loss": last.get("loss"),
        "steps": state.step,
        "finished": finished,
        "images": state.step * settings.recipe.global_batch,
        "seconds": round(seconds, 1),
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,
        "peak_memory_gb": round(peak_memory_gb(recorder.world.device), 3),
        "energy_kwh": round(energy.kwh, 6),
        "processes": recorder.world.size,
        "checkpoint": str(checkpoints[-1]) if checkpoints else None,
    }


def conclude(settings: Settings, recorder: Recorder, state: TrainState, finished: bool) -> None:
    """Write results and report, print the closing table or how to go on."""
    run_dir, rows = settings.run_dir, recorder.metrics.rows()
    results = summarize(rows, settings, state, recorder, finished)
    (run_dir / "results.json").write_text(json.dumps(results, indent=1))
    report = write_report(run_dir)
    display = recorder.display
    if finished and "knn_top1" in results:
        display.table(
            "k-NN accuracy (top 1, %)",
            ["features", "accuracy"],
            [
                [label, f"{results[key]:.1f}"]
                for label, key in (
                    ("trained teacher", "knn_top1"),
                    ("same network, untrained", "knn_top1_untrained"),
                    ("raw pixels", "knn_top1_pixels"),
                )
                if results.get(key) is not None
            ],
        )
    if not finished:
        display.message(
            f"stopped at step {state.step} of {settings.recipe.steps}, saved; the same command goes on from here"
        )
    display.message(f"report: {report}")
