"""Evaluating the moving average while it trains: tasks on labelled images, and pictures of what it sees."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from dinotrain.commands.build import build
from dinotrain.commands.settings import Settings
from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation, cls_function
from dinotrain.evaluation.knn_probe import KnnProbe, labelled_split
from dinotrain.evaluation.pictures import feature_picture, save_picture
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.store import FeatureStore
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.models.vit import VisionTransformer
from dinotrain.training.recorder import Evaluated


class _Stopped(Exception):
    """A stop was asked for in an evaluation."""


class Validation:
    """What is evaluated in a run, when it is asked for; ended early, without a result, when a stop is."""

    def __init__(
        self,
        settings: Settings,
        backbone: object,
        world: World,
        teacher: FrozenTeacher | None = None,
        known: dict[Preparation, dict[str, float]] | None = None,
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Build it.

        Args:
            known: collects what several students are held against alike, so that it is measured once.
            stopped: whether a stop was asked for; all processes call it together.
        """
        config, options, source = settings.config, settings.evaluation, settings.source
        assert isinstance(backbone, VisionTransformer)
        self.options, self.backbone, self.world, self.teacher = options, backbone, world, teacher
        self.known, self.stopped = {} if known is None else known, stopped
        self.preparation = Preparation(
            size=options.size or config.model.image_size,
            crop_fraction=options.crop_fraction,
            mean=tuple(config.data.mean),
            std=tuple(config.data.std),
        )
        self.folder = settings.run_dir / "pictures"
        train, test = settings.labelled
        split = labelled_split(train, test, max_train=options.max_train, max_test=options.max_test)
        self.probe = None
        if split is not None and "knn" in options.tasks:
            self.probe = KnnProbe(
                split,
                self.preparation,
                world,
                k=options.k,
                temperature=options.temperature,
                batch=options.batch,
                check=self._check,
            )
        self.split = split
        self.tasks = {name: build(config.tasks[name]) for name in options.tasks if name != "knn"}
        self.seed = config.seed
        self.pixels = self._picture_pixels(test or source)

    def baselines(self) -> Evaluated | None:
        """k-NN of the network as it is before the first step, of raw pixels, and of a frozen teacher."""
        try:
            return self._measure_baselines()
        except _Stopped:
            return None

    def __call__(self, step: int) -> Evaluated | None:
        """The tasks, of the moving average; draws the picture of this step."""
        try:
            return self._evaluate(step)
        except _Stopped:
            return None

    def _check(self) -> None:
        if self.stopped():
            raise _Stopped

    def _measure_baselines(self) -> Evaluated:
        if self.probe is None:
            return Evaluated({})
        untrained = self.probe.evaluate(cls_function(self.backbone))["knn_top1"]
        if self.preparation not in self.known:
            self.known[self.preparation] = self._measure_others(self.probe)
        return Evaluated({"knn_top1_untrained": untrained, **self.known[self.preparation]})

    def _measure_others(self, probe: KnnProbe) -> dict[str, float]:
        found, teacher = {"knn_top1_pixels": probe.pixels()}, self.teacher
        if teacher is not None:
            seen = probe.evaluate(lambda images: teacher.backbone([images])[0].cls)
            found["knn_top1_teacher"] = seen["knn_top1"]
        return found

    def _evaluate(self, step: int) -> Evaluated:
        pictures = ()
        if self.pixels is not None:
            picture = feature_picture(self.backbone, self.pixels, self.preparation)
            pictures = (self.folder / f"features_{step:08d}.png",)
            if self.world.main:
                save_picture(picture, pictures[0])
        numbers = self.probe.evaluate(cls_function(self.backbone)) if self.probe is not None else {}
        return Evaluated(numbers | self._headlines(), pictures)

    def _headlines(self) -> dict[str, float]:
        """`TASK_NUMBER`, the first number of every further task."""
        if self.split is None or not self.tasks:
            return {}
        setting = Setting(
            backbone=Backbone(self.backbone, self.preparation),
            world=self.world,
            train=self.split.train,
            test=self.split.test,
            seed=self.seed,
            batch=self.options.batch,
            store=FeatureStore(None, self.world),
            check=self._check,
        )
        found = {}
        for name, task in self.tasks.items():
            try:
                key, value = next(iter(task.run(setting).numbers.items()))
            except UserError as error:
                # All processes have the same labels, and so the same mistake; training is worth more than its number.
                if self.world.main:
                    warnings.warn(f"runtime: evaluation.tasks: {name} is left out: {error}", stacklevel=2)
                continue
            found[f"{name}_{key}"] = value
        return found

    def _picture_pixels(self, source: Source) -> torch.Tensor | None:
        """The images of the pictures: evenly spaced through the source, the same in every run."""
        images = []
        for index in np.linspace(0, len(source) - 1, self.options.pictures).round().astype(int):
            try:
                images.append(self.preparation.pixels(source.image(int(index))))
            except BrokenImage:
                continue
        return torch.stack(images).to(self.world.device) if images else None
