"""One training run, from a checked configuration to the closing table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from omegaconf import DictConfig

from dinotrain.commands.assembly import Plan, build_loader, build_mesh, build_method, build_networks, settle
from dinotrain.commands.banner import banner
from dinotrain.commands.deliver import deliver
from dinotrain.commands.ending import Attempt, Ended
from dinotrain.commands.opening import frozen_steps, read_opening
from dinotrain.commands.results import conclude, is_evaluated
from dinotrain.commands.resume import checkpoint_to_resume
from dinotrain.commands.roster import Entry, agree, enter, learners_of, restore
from dinotrain.commands.settings import Settings, check_groups
from dinotrain.commands.students import student_configs
from dinotrain.commands.teacher import build_teacher, complete, read_teacher, teacher_size
from dinotrain.distributed.world import World
from dinotrain.errors import FaultError, UserError
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.training.display import Display
from dinotrain.training.interrupt import Interrupt
from dinotrain.training.learner import Learner
from dinotrain.training.loop import due, evaluate, train
from dinotrain.training.recorder import Recorder
from dinotrain.weights.weights import Weights


def pretrain(config: DictConfig, attempt: Attempt, interrupt: Interrupt | None = None) -> Ended:
    """Train as configured, each student going on from what is in its run folder.

    Args:
        attempt: is told the run folder, and watched over.
        interrupt: what catches signals already; None to do so here.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    check_groups(config)
    attempt.run_dir = Path(config.output_dir)
    students = all_settings(config)
    parallel = students[0].parallel
    device = choose_device(students[0].runtime.device)
    # What is wrong with these is said before anything starts.
    openings = [check(settings) for settings in students]
    for settings in students:
        make_folder(settings)
    with ExitStack() as stack:
        world = attempt.join(
            device, stack, start_minutes=parallel.start_timeout_minutes, minutes=parallel.timeout_minutes
        )
        # Signals are caught once all are there: until then there is nothing to save, and nobody to agree with.
        interrupt = interrupt or stack.enter_context(Interrupt())
        attempt.look_at_machines(world)
        ended = _train_all(students, openings, world, interrupt)
    if world.main:
        attempt.reports().clear()
    return ended


def _train_all(students: list[Settings], openings: list[Weights | None], world: World, interrupt: Interrupt) -> Ended:
    """Build everything and train; empties the lists of the tensors that are built in."""
    first = students[0]
    agree("data.root", first.fingerprint, world)
    agree("teacher.weights", first.teacher_digest, world)
    plan = settle(students, world, len(os.sched_getaffinity(0)))
    mesh = build_mesh(first, world)
    method = build_method(first.config, first.teacher, world.device)
    teacher = None
    if first.teacher is not None:
        teacher = build_teacher(
            first.config,
            first.teacher,
            mesh=mesh,
            precision=plan.precision,
            attention=plan.attention,
            device=world.device,
        )
    students[:] = [settings.without_tensors() for settings in students]
    del first
    entries = [enter(settings, opening, plan, world, mesh, method) for settings, opening in zip(students, openings)]
    openings.clear()
    restore(entries)
    with ExitStack() as stack:
        interactive = None if world.main else False
        display = stack.enter_context(Display(students[0].recipe.steps, interactive=interactive))
        learners = learners_of(entries, plan, world, display, teacher, stack, stopped=lambda: interrupt.anywhere(world))
        if world.main:
            introduce(entries, learners, plan, world, display)
        return _train_and_conclude(entries, learners, teacher, plan, world, display, interrupt)


def all_settings(config: DictConfig) -> list[Settings]:
    """The settings of each student of a run.

    Raises:
        UserError: for a value that is refused, or students and a teacher that don't go together.
    """
    check_groups(config)
    teacher = read_teacher(config)
    (name, own), *others = student_configs(complete(config, teacher)).items()
    first = Settings.of(own, teacher, name)
    students = [first, *(first.of_student(name, other) for name, other in others)]
    if teacher is not None and len({teacher_size(settings.config, teacher) for settings in students}) > 1:
        raise UserError(
            "students: their patches differ, and with them the px in which the teacher is to see the images"
        )
    return students


def check(settings: Settings) -> Weights | None:
    """Look for what is wrong with a student; returns what it is to begin with, if it does not go on.

    Raises:
        UserError: with its name, where there are several.
    """
    try:
        build_networks(settings.config, settings.teacher)
        build_method(settings.config, settings.teacher, torch.device("meta"))
        opening = read_opening(settings) if checkpoint_to_resume(settings) is None else None
        frozen_steps(settings, opening)
        return opening
    except UserError as error:
        if settings.student:
            raise UserError(f"students: {settings.student}: {error}") from error
        raise


def make_folder(settings: Settings) -> None:
    """Make the run folder.

    Raises:
        UserError: if it can't be made or written to, or holds something else than such a run.
    """
    above, own = settings.run_dir.parent, settings.run_dir / "checkpoints"
    if settings.student and (above / "checkpoints").exists():
        raise UserError(f"output_dir: {above} holds a run of a single student; choose another folder for several")
    if not settings.student and not own.exists() and any(settings.run_dir.glob("*/checkpoints")):
        raise UserError(f"output_dir: {settings.run_dir} holds the runs of several students; choose another folder")
    try:
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        (settings.run_dir / "config.yaml").open("a").close()
    except OSError as error:
        raise UserError(f"output_dir: can't write to {settings.run_dir} ({error.strerror})") from error


def introduce(
    entries: Sequence[Entry], learners: Sequence[Learner], plan: Plan, world: World, display: Display
) -> None:
    """Say what will run, what is gone on with, and what is left out."""
    display.banner(banner(entries, plan, world))
    first = entries[0].settings
    for entry, each in zip(entries, learners):
        if entry.start is not None:
            name, step = f"{each.name}: " if each.name else "", each.state.step
            evaluated = is_evaluated(each.recorder.metrics.rows(), step)
            display.message(name + resume_message(step, first.recipe.steps, entry.start, evaluated=evaluated))
    if first.source.left_out:
        display.warning(record_left_out([entry.settings for entry in entries]))


def resume_message(step: int, steps: int, checkpoint: Path, *, evaluated: bool) -> str:
    """What is said when a run is not started but found."""
    if step == steps:
        done = f"all {steps} steps are done"
        return f"already finished: {done}" if evaluated else f"{done}, only the last evaluation is missing"
    return f"going on from {checkpoint} (step {step} of {steps})"


def record_left_out(students: Sequence[Settings]) -> str:
    """Lists the parts of the data that could not be listed, in a file of each run folder; returns what to say of it."""
    parts = students[0].source.left_out
    files = [settings.run_dir / "left_out.txt" for settings in students]
    for file in files:
        file.write_text("".join(f"{part.name}\t{part.reason}\n" for part in parts), "utf-8")
    number = "1 part" if len(parts) == 1 else f"{len(parts)} parts"
    return f"data: {number} left out (the first: {parts[0].name}: {parts[0].reason}); all in {files[0]}"


def choose_device(name: str, key: str = "runtime.device") -> str:
    """ "cuda" or "cpu".

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        # A job may have been given a machine whose GPUs are gone.
        kind = FaultError if "SLURM_STEP_ID" in os.environ else UserError
        raise kind(f"{key}: cuda, but torch finds no GPU here; expected {key}=cpu or auto")
    return name


def _train_and_conclude(
    entries: Sequence[Entry],
    learners: Sequence[Learner],
    teacher: FrozenTeacher | None,
    plan: Plan,
    world: World,
    display: Display,
    interrupt: Interrupt,
) -> Ended:
    first, behind = entries[0].settings, min(entries, key=lambda entry: entry.state.step)
    config, recipe, start = first.config, first.recipe, behind.state.step
    for each in learners:
        _evaluate_at_the_start(each, recipe.steps, config.evaluation.every, world)
    try:
        train(
            learners,
            iter(build_loader(first, plan, world, start, display.warning)),
            recipe.schedules(frozen_steps=behind.frozen_steps),
            teacher=teacher,
            steps=recipe.steps,
            micro_batches=plan.accumulation,
            clip_grad=recipe.clip_grad,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint.every,
            evaluate_every=config.evaluation.every,
            world=world,
            interrupt=interrupt,
        )
    except UserError:
        world.at("saving", patient=True)
        for each in learners:
            each.checkpointer.settle()
        if world.main:
            conclude(entries, learners, display)
        raise
    going = [(entry.settings, each) for entry, each in zip(entries, learners) if each.failure is None]
    unfinished = [each for settings, each in going if not _finish(settings, each, world)]
    requested = interrupt.agree(world) if unfinished else None
    for each in unfinished:
        each.recorder.event("interrupted", each.state.step, reason=requested)
    step = min((each.state.step for _, each in going), default=recipe.steps)
    if world.main:
        if unfinished:
            # In a job its script says what follows.
            more = "" if "SUBMITIT_EXECUTOR" in os.environ else "; the same command goes on from here"
            display.message(f"stopped at step {step} of {recipe.steps}, saved{more}")
        conclude(entries, learners, display)
    failures = [each.failure for each in learners if each.failure is not None]
    # After a stop, the others' training goes on: their end is what tells whether all went well.
    if failures and not unfinished:
        raise UserError("; ".join(failures))
    return Ended(step, recipe.steps, requested, done=not unfinished)


def _finish(settings: Settings, each: Learner, world: World) -> bool:
    """The last evaluation and the backbone of a student; False if a stop was asked for before it is done."""
    steps = settings.recipe.steps
    if each.state.step < steps:
        return False
    if owed(each.recorder, steps, steps, settings.config.evaluation.every) and not evaluate(each, world):
        return False
    deliver(settings, each.state, world)
    return True


def _evaluate_at_the_start(each: Learner, steps: int, every: int | None, world: World) -> None:
    """The baselines of a new student; of one that goes on, the evaluation that its last part came to owe.

    What a stop cuts off is made up for by the next start.
    """
    step, recorder = each.state.step, each.recorder
    world.at("evaluating", patient=True)
    missing = owed(recorder, step, steps, every)
    if recorder.restarted and (step < steps or missing):
        recorder.event("resume", step, attempt=world.attempt)
    if step == 0 and (baselines := each.baselines()) is not None and baselines.numbers:
        recorder.evaluation(baselines, 0)
    if missing:
        evaluate(each, world)


def owed(recorder: Recorder, step: int, steps: int, every: int | None) -> bool:
    """Whether the evaluation after `step` is due and not on record: the end comes without it, and so may a resume."""
    if step == 0 or not (step == steps or due(step, every)):
        return False
    return recorder.world.any(recorder.world.main and not is_evaluated(recorder.metrics.rows(), step))
