"""One evaluation, from what was typed to the closing table."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinotrain.cluster.submission import remove_if_empty
from dinotrain.commands.build import build
from dinotrain.commands.config import compose_config
from dinotrain.commands.ending import Attempt, Ended
from dinotrain.commands.evaluation_images import images_of
from dinotrain.commands.evaluation_input import input_of
from dinotrain.commands.evaluation_options import TASKS, EvaluationRequest
from dinotrain.commands.evaluation_place import data_name, results_folder
from dinotrain.commands.evaluation_results import Results
from dinotrain.commands.evaluation_table import introduce, show
from dinotrain.commands.frozen import frozen_backbone
from dinotrain.commands.pretrain import choose_device
from dinotrain.commands.settings import check_data
from dinotrain.data.dense import DenseSource
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.reading import MOST_THREADS
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.store import FeatureStore
from dinotrain.reporting.environment import usable_cores
from dinotrain.training.interrupt import Interrupt
from dinotrain.weights.weights import Weights

LONGEST_MINUTES = 60.0
"""That an evaluation may stand still."""

GROUPS = ("data", "storage", *TASKS)
STOPPED_AT_ONCE = "stopped at once; the results of finished tasks are kept"
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
        check_data(self.config.data)
        self.images = images_of(self.config, self.request, overrides)
        names = chosen_tasks(self.request, self.images.train.source)
        if self.images.extra_tests and "linear" not in names:
            raise UserError("extra_tests: are for the linear task; expected task=linear, or none of them")
        self.tasks = {name: build(self.config[name]) for name in names}

    def device(self) -> str:
        """ "cuda" or "cpu".

        Raises:
            UserError: if a GPU is asked for and there is none here.
        """
        return choose_device(self.request.device, key="device")

    def folder(self, weights: Weights, identity: str) -> Path:
        """Where the results for these weights go; made if it is not there."""
        facts = [identity, *self.images.fingerprints, *input_of(self.request, weights)]
        return results_folder(self.request, self.config, weights, facts)

    def is_done(self, folder: Path) -> bool:
        """Whether all that is asked for is on record."""
        found = Results(folder)
        return not self.request.again and all(found.has(name, self.config[name]) for name in self.tasks)

    def of(self, weights: Weights, identity: str, folder: Path, world: World, interrupt: Interrupt) -> Results:
        """Carry out the tasks, in a world that all processes are in.

        Raises:
            UserError: for what the user can put right.
            Stopped: if a stop was asked for; the results of finished tasks are kept.
        """
        self._agree(world, identity)
        results = Results(folder)
        with self._store(world) as store:
            setting = self._setting(weights, identity, world, store, lambda: _check(interrupt, world))
            if world.main:
                results.begin(weights, identity, self.images, setting, self.request, data_name(self.config))
                introduce(results, self.images, weights, setting)
            for name, task in self.tasks.items():
                self._carry_out(name, task, setting, results)
        if world.main:
            show(results, list(self.tasks))
            results.publish()
        return results

    def _store(self, world: World) -> AbstractContextManager[FeatureStore]:
        if not self.request.cache:
            return FeatureStore.for_once(world)
        return nullcontext(FeatureStore.of_user(world, limit_gb=self.request.cache_gb))

    def _setting(
        self, weights: Weights, identity: str, world: World, store: FeatureStore, check: Callable[[], None]
    ) -> Setting:
        request, images = self.request, self.images
        size, crop_fraction = input_of(request, weights)
        backbone = frozen_backbone(
            weights,
            device=world.device,
            size=size,
            crop_fraction=crop_fraction,
            mean=None if request.mean is None else tuple(request.mean),
            std=None if request.std is None else tuple(request.std),
            precision=request.precision,
        )
        return Setting(
            backbone=backbone,
            world=world,
            train=images.train,
            test=images.test,
            validation=images.validation,
            extra_tests=images.extra_tests,
            seed=request.seed,
            batch=request.batch,
            threads=request.threads or min(max(usable_cores() // world.local_size, 1), MOST_THREADS),
            max_broken=self.config.data.max_broken,
            store=store,
            identity=identity,
            check=check,
        )

    def _carry_out(self, name: str, task: Any, setting: Setting, results: Results) -> None:
        options = self.config[name]
        # The main process alone has read what is on record.
        known = setting.world.any(setting.world.main and results.has(name, options))
        if known and not self.request.again:
            return
        begin = time.monotonic()
        try:
            outcome = task.run(setting)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if setting.world.main:
            results.add(name, outcome, options, time.monotonic() - begin, unreadable=setting.unreadable)

    def _agree(self, world: World, identity: str) -> None:
        """All processes see the same weights and images.

        Raises:
            UserError: if they don't.
        """
        own = [identity, *self.images.fingerprints]
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
    weights = evaluation.request.read_weights()
    identity = identity_of(weights)
    device = evaluation.device()
    attempt.run_dir = evaluation.folder(weights, identity)
    with ExitStack() as stack:
        stack.callback(remove_if_empty, attempt.run_dir)
        world = attempt.join(device, stack, start_minutes=LONGEST_MINUTES, minutes=LONGEST_MINUTES)
        interrupt = interrupt or stack.enter_context(Interrupt(at_once=STOPPED_AT_ONCE))
        total = len(evaluation.tasks)
        try:
            evaluation.of(weights, identity, attempt.run_dir, world, interrupt)
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


def identity_of(weights: Weights) -> str:
    """Of all that decides what the network makes of an image: tensors, and what they don't show, as the heads."""
    facts = f"{weights.digest()} {sorted(vars(weights.architecture).items())}"
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()


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
