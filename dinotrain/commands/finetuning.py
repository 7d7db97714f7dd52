"""One run of finetune, from what was typed to the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dinotrain.commands.assembly import divide_batch
from dinotrain.commands.config import compose_config
from dinotrain.commands.ending import Attempt, Ended
from dinotrain.commands.evaluation_place import data_name
from dinotrain.commands.finetuning_batches import objective_of, targets_of, views_of
from dinotrain.commands.finetuning_images import LabelledImages, labelled_images
from dinotrain.commands.finetuning_options import FinetuneRequest, request_of, run_folder
from dinotrain.commands.finetuning_records import Subject, begin_records, introduce
from dinotrain.commands.finetuning_results import conclude, show
from dinotrain.commands.finetuning_resume import checkpoint_to_resume, is_finished, open_folder
from dinotrain.commands.finetuning_start import Start, read_start
from dinotrain.commands.pretrain import choose_device, resume_message
from dinotrain.commands.roster import agree
from dinotrain.commands.settings import check_data
from dinotrain.distributed.parallelize import Precision, device_mesh
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.reading import MOST_THREADS
from dinotrain.finetuning.assembly import build_state, default_precision
from dinotrain.finetuning.loop import Rhythm, Stopped, finetune
from dinotrain.finetuning.records import Records
from dinotrain.finetuning.state import FinetuneState
from dinotrain.finetuning.validation import Validation
from dinotrain.finetuning.views import batches
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.reporting.environment import usable_cores
from dinotrain.training.checkpoint import Checkpointer
from dinotrain.training.display import Display
from dinotrain.training.interrupt import Interrupt

LONGEST_MINUTES = 60.0
"""That a run may stand still."""
KEEP_LAST = 2
"""Checkpoints."""


def finetuned(overrides: Sequence[str], attempt: Attempt, interrupt: Interrupt | None = None) -> Ended:
    """Train a classifier as typed, going on from what is in the run folder.

    Args:
        interrupt: what catches signals already; None to do so here.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    run = Run.of(overrides)
    device = choose_device(run.request.device, key="device")
    # Before that, it may be the folder of something else, where no report of a failure belongs.
    open_folder(run.folder)
    attempt.run_dir = run.folder
    checkpoint_to_resume(run.folder, run.config, run.record)
    with ExitStack() as stack:
        world = attempt.join(device, stack, start_minutes=LONGEST_MINUTES, minutes=LONGEST_MINUTES)
        interrupt = interrupt or stack.enter_context(Interrupt())
        attempt.look_at_machines(world)
        ended = run.carry_out(world, interrupt, stack)
    if world.main:
        attempt.reports().clear()
    return ended


@dataclass(frozen=True)
class Run:
    """All that is settled before anything large is built."""

    config: DictConfig
    request: FinetuneRequest
    images: LabelledImages
    start: Start
    recipe: OptimizationRecipe
    folder: Path

    @classmethod
    def of(cls, overrides: Sequence[str]) -> Run:
        """Compose and check what was typed; look for images and weights.

        Raises:
            UserError: with one line, for what the user can put right.
        """
        config = compose_config("finetune", overrides)
        request = request_of(config)
        check_data(config.data)
        images = labelled_images(config, request, overrides)
        start = read_start(request, images)
        folder = run_folder(request, data_name(config))
        return cls(config, request, images, start, request.recipe(len(images.train), start.channels), folder)

    @property
    def record(self) -> dict[str, str]:
        """What checkpoints say of weights and images."""
        return {"weights": self.start.digest, "images": self.images.fingerprint}

    def carry_out(self, world: World, interrupt: Interrupt, stack: ExitStack) -> Ended:
        """Train, and write the classifier; in a world that all processes are in."""
        steps = self.recipe.steps
        for what, seen in self.record.items():
            agree({"images": "data.root"}.get(what, what), seen, world)
        # The main process decides: what lies in a shared folder may look different elsewhere.
        finished, path = self._found_by_main(world)
        if finished:
            if world.main:
                print(f"already finished: {self.folder}")
                show(self.folder)
            return Ended(steps, steps, None, done=True)
        state, subject = self._built(world)
        checkpointer = Checkpointer(
            self.folder / "checkpoints", world, keep_last=KEEP_LAST, config=subject.text, record=dict(self.record)
        )
        if path is not None:
            try:
                checkpointer.load(path, state)
            except ValueError as error:
                raise UserError(str(error)) from error
        display = stack.enter_context(Display(steps, interactive=None if world.main else False))
        records = begin_records(self.folder, subject, state, world, display)
        if world.main:
            introduce(subject, self.recipe, state, world, display)
            if path is not None:
                display.message(resume_message(state.step, steps, path, evaluated=False))
        return self._trained(state, subject, records, checkpointer, world, interrupt)

    def _found_by_main(self, world: World) -> tuple[bool, Path | None]:
        """What the main process finds, which all of them go by; so all of them end if it refuses that."""
        found: Any = None
        if world.main:
            try:
                found = self._found()
            except UserError as error:
                found = error
        found = world.gather(found)[0]
        if isinstance(found, UserError):
            raise found
        return found

    def _found(self) -> tuple[bool, Path | None]:
        return is_finished(self.folder), checkpoint_to_resume(self.folder, self.config, self.record)

    def _built(self, world: World) -> tuple[FinetuneState, Subject]:
        request, description = self.request, self.start.description
        precision: Precision = default_precision(world.device)
        if request.precision != "auto":
            precision = request.precision  # pyright: ignore[reportAssignmentType]
        mesh = device_mesh(world.device.type, world.size, None)
        state, classifier, done = build_state(
            self.start.weights,
            description,
            objective_of(self.images, request.balance, request.label_smoothing),
            self.recipe,
            trains_backbone=request.kind.trains_backbone,
            head=self.start.head,
            drop_path=request.drop_path or 0.0,
            mesh=mesh,
            precision=precision,
            device=world.device,
            seed=request.seed,
        )
        return state, Subject(self.config, request, self.images, self.start, classifier, precision, done)

    def _rhythm(self) -> Rhythm:
        request, steps = self.request, self.recipe.steps
        return Rhythm(
            steps=steps,
            evaluate_every=request.steps_between(steps, len(self.images.validation)),
            checkpoint_every=request.checkpoint_every,
            log_every=request.log_every,
            patience=request.patience,
            evaluate_first=self.start.head is not None,
        )

    def _trained(
        self,
        state: FinetuneState,
        subject: Subject,
        records: Records,
        checkpointer: Checkpointer,
        world: World,
        interrupt: Interrupt,
    ) -> Ended:
        recipe = self.recipe
        micro, accumulation = _divided(recipe, world)
        threads = self.request.threads or min(max(usable_cores() // world.local_size, 1), MOST_THREADS)
        preparation = subject.classifier.preparation
        validation = Validation(
            split=self.images.validation,
            labels=self.images.validation_labels,
            preparation=preparation,
            world=world,
            batch=micro,
            threads=threads,
            max_broken=self.config.data.max_broken,
            check=lambda: _check(interrupt, world),
        )
        views = batches(
            views_of(self.images, self.request, preparation.size),
            targets_of(self.images),
            preparation=preparation,
            global_batch=recipe.global_batch,
            micro_batch=micro,
            steps=range(state.step, recipe.steps),
            world=world,
            threads=threads,
        )
        try:
            finetune(
                state,
                views,
                recipe.schedules(),
                rhythm=self._rhythm(),
                micro_batches=accumulation,
                clip_grad=recipe.clip_grad,
                validation=validation,
                records=records,
                checkpointer=checkpointer,
                world=world,
                interrupt=interrupt,
            )
            conclude(self.folder, subject, state, recipe, validation, records)
        except Stopped:
            checkpointer.wait()
            requested = interrupt.agree(world)
            records.event("interrupted", state.step, reason=requested)
            if world.main:
                records.display.message(_stopped_words(state.step, recipe.steps))
            return Ended(state.step, recipe.steps, requested, done=False)
        except UserError:
            checkpointer.settle()
            raise
        return Ended(state.step, recipe.steps, None, done=True)


def _divided(recipe: OptimizationRecipe, world: World) -> tuple[int, int]:
    try:
        return divide_batch(recipe.global_batch, world.size, micro_batch=recipe.micro_batch, limit=None)
    except UserError as error:
        raise UserError(str(error).replace("optim.global_batch", "batch").replace("optim.", "")) from error


def _stopped_words(step: int, steps: int) -> str:
    where = f"at step {step} of {steps}" if step < steps else "before the last evaluation"
    return f"stopped {where}, saved; the same command goes on from here"


def _check(interrupt: Interrupt, world: World) -> None:
    if interrupt.anywhere(world):
        raise Stopped
