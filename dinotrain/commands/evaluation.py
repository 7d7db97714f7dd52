"""One evaluation, from what was typed to the closing table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.build import build
from dinotrain.commands.config import compose_config
from dinotrain.commands.ending import Attempt, Ended
from dinotrain.commands.evaluation_images import images_of
from dinotrain.commands.evaluation_options import TASKS, EvaluationRequest
from dinotrain.commands.evaluation_place import data_name, results_folder
from dinotrain.commands.evaluation_results import Results
from dinotrain.commands.evaluation_table import introduce, show
from dinotrain.commands.frozen import frozen_backbone, input_size
from dinotrain.commands.pretrain import choose_device
from dinotrain.data.dense import DenseSource
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.store import FeatureStore
from dinotrain.training.interrupt import Interrupt
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights

LONGEST_MINUTES = 60.0
"""That an evaluation may stand still."""

GROUPS = ("data", "storage", *TASKS)
STOPPED_WORDS = "stopped; the results of finished tasks are kept, the same command does the others"


class Stopped(Exception):
    """A stop was asked for."""


class Evaluation:
    """Tasks and images that any number of weights are evaluated on, by all processes together."""

    def __init__(self, overrides: Sequence[str]) -> None:
        """Compose and check what was typed, and look for the images.

        Raises:
            UserError: with one line, for what the user can put right.
        """
        self.config = compose_config("evaluate", overrides)
        self.request = request_of(self.config)
        self.device = choose_device(self.request.device, key="device")
        self.images = images_of(self.request, overrides)
        names = chosen_tasks(self.request, self.images.train.source)
        self.tasks = {name: build(self.config[name]) for name in names}

    def folder(self, weights: Weights, digest: str) -> Path:
        """Where the results for these weights go; made if it is not there."""
        size = input_size(weights, self.request.size)
        return results_folder(self.request, self.config, weights, digest, [*self.images.fingerprints, str(size)])

    def of(self, weights: Weights, digest: str, folder: Path, world: World, interrupt: Interrupt) -> Results:
        """Carry out the tasks, in a world that all processes are in.

        Raises:
            UserError: for what the user can put right.
            Stopped: if a stop was asked for; the results of finished tasks are kept.
        """
        self._agree(world, digest)
        setting = self._setting(weights, digest, world, lambda: _check(interrupt, world))
        results = Results(folder)
        if world.main:
            results.begin(weights, digest, self.images, setting, self.request, data_name(self.config))
            introduce(results, self.images, weights, setting)
        for name, task in self.tasks.items():
            self._carry_out(name, task, setting, results)
        if world.main:
            results.publish()
            show(results, list(self.tasks))
        return results

    def _setting(self, weights: Weights, digest: str, world: World, check: Callable[[], None]) -> Setting:
        request, images = self.request, self.images
        backbone = frozen_backbone(
            weights,
            device=world.device,
            size=request.size,
            crop_fraction=request.crop_fraction,
            mean=None if request.mean is None else tuple(request.mean),
            std=None if request.std is None else tuple(request.std),
            precision=request.precision,
        )
        store = FeatureStore.of_user(world, limit_gb=request.cache_gb) if request.cache else FeatureStore(None, world)
        return Setting(
            backbone=backbone,
            world=world,
            train=images.train,
            test=images.test,
            validation=images.validation,
            extra_tests=images.extra_tests,
            seed=request.seed,
            batch=request.batch,
            threads=request.threads,
            store=store,
            identity=digest,
            check=check,
        )

    def _carry_out(self, name: str, task: Any, setting: Setting, results: Results) -> None:
        options = {str(key): value for key, value in self.config[name].items()}
        # The main process alone has read what is on record.
        known = setting.world.any(setting.world.main and results.has(name, options))
        if known and not self.request.again:
            return
        begin = time.monotonic()
        try:
            outcome = task.run(setting)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        if setting.world.main:
            results.add(name, outcome, options, time.monotonic() - begin)

    def _agree(self, world: World, digest: str) -> None:
        """All processes see the same weights and images.

        Raises:
            UserError: if they don't.
        """
        own = [digest, *self.images.fingerprints]
        if world.any(world.gather(own)[0] != own):
            raise UserError("weights or images differ between processes; expected the same files for all of them")


def evaluate(overrides: Sequence[str], attempt: Attempt, interrupt: Interrupt | None = None) -> Ended:
    """Evaluate the weights that were typed.

    Args:
        interrupt: what catches signals already; None to do so here.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    evaluation = Evaluation(overrides)
    weights = weights_of(evaluation.request)
    digest = weights.digest()
    attempt.run_dir = evaluation.folder(weights, digest)
    with ExitStack() as stack:
        world = attempt.join(evaluation.device, stack, start_minutes=LONGEST_MINUTES, minutes=LONGEST_MINUTES)
        interrupt = interrupt or stack.enter_context(Interrupt())
        total = len(evaluation.tasks)
        try:
            evaluation.of(weights, digest, attempt.run_dir, world, interrupt)
        except Stopped:
            if world.main:
                print(STOPPED_WORDS, file=sys.stderr, flush=True)
            done = sum(name in Results(attempt.run_dir).tasks for name in evaluation.tasks)
            return Ended(done, total, interrupt.agree(world), done=False, unit="tasks")
    if world.main:
        attempt.reports().clear()
    return Ended(total, total, None, done=True, unit="tasks")


def request_of(config: DictConfig) -> EvaluationRequest:
    """The keys that are not of a group.

    Raises:
        UserError: for a value that is refused.
    """
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(
                f"{group}: got {config[group]!r}, expected the keys of that group; did you mean task={group}?"
            )
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return EvaluationRequest(**{str(key): value for key, value in plain.items() if key not in GROUPS})


def weights_of(request: EvaluationRequest) -> Weights:
    """The backbone that was asked for.

    Raises:
        UserError: if it can't be read.
    """
    try:
        return read_weights(request.weights, part=request.part, num_heads=request.num_heads).without_heads()
    except UserError as error:
        raise UserError(f"weights: {error}") from error


def chosen_tasks(request: EvaluationRequest, source: Source) -> list[str]:
    """The tasks that were named, or all that the images allow.

    Raises:
        UserError: for a named task that the images don't allow, or if they allow none.
    """
    reasons = {task: why_not(task, source) for task in request.names or TASKS}
    if not request.names:
        possible = [task for task, reason in reasons.items() if reason is None]
        if not possible:
            raise UserError("task: all, but these images have neither labels nor masks nor depths")
        return possible
    for task, reason in reasons.items():
        if reason is not None:
            raise UserError(f"task: {task}: {reason}")
    return list(reasons)


def why_not(task: str, source: Source) -> str | None:
    """What the images lack for a task; None if nothing."""
    targets = source.targets if isinstance(source, DenseSource) else ()
    if task == "segmentation":
        return None if "masks" in targets else "these images have no masks; expected data=masks, ade20k, voc ..."
    if task == "depth":
        return None if "depth" in targets else "these images have no depths; expected data=depth, nyu, sunrgbd ..."
    if task == "multilabel":
        several = getattr(source, "multi_labels", None) is not None
        return None if several else "these images have one label at most; expected data=multilabel_csv, coco ..."
    if task == "retrieval" and getattr(source, "ground_truth", None) is not None:
        return None
    if source.labels is None:
        return "these images have no labels; expected one sub-folder of images per class, or a list with labels"
    if len(set(source.labels.tolist())) < 2:
        return "these images are all of one class"
    return None


def _check(interrupt: Interrupt, world: World) -> None:
    if interrupt.anywhere(world):
        raise Stopped
