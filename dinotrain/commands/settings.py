"""A configuration as checked objects, before anything large is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.build import build
from dinotrain.commands.config import without_secrets
from dinotrain.commands.options import (
    CheckpointOptions,
    EvaluationOptions,
    LoggingOptions,
    ParallelOptions,
    ResumeOptions,
    RuntimeOptions,
    StartOptions,
)
from dinotrain.commands.sources import build_source
from dinotrain.commands.teacher import check_pair, teacher_needed
from dinotrain.data.augment import Augment
from dinotrain.data.crops import MultiCrop
from dinotrain.data.masks import MaskSampler
from dinotrain.data.source import Source
from dinotrain.data.sources.folder import FolderSource
from dinotrain.errors import UserError
from dinotrain.evaluation.relabelled import in_classes_of
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.weights.weights import Weights

OPTION_GROUPS = ("train", "parallel", "runtime", "checkpoint", "resume", "evaluation", "logging")


@dataclass(frozen=True)
class Settings:
    """All groups of keys as objects, and the source of images."""

    config: DictConfig
    recipe: OptimizationRecipe
    train: StartOptions
    parallel: ParallelOptions
    runtime: RuntimeOptions
    checkpoint: CheckpointOptions
    resume: ResumeOptions
    evaluation: EvaluationOptions
    logging: LoggingOptions
    source: Source
    fingerprint: str
    """Of the source; taken once, since a large folder's takes a while."""
    crops: MultiCrop
    augment: Augment
    masks: MaskSampler | None
    labelled: tuple[Source, Source | None]
    """The images that k-NN searches in, and those to classify; None for a part of the former."""
    teacher: Weights | None
    """The frozen teacher of a distillation."""
    teacher_digest: str | None
    """Of its weights; taken once, since it reads them all."""
    student: str = ""
    """The name of the student, where there are several."""

    @classmethod
    def of(cls, config: DictConfig, teacher: Weights | None = None, student: str = "") -> Settings:
        """Build and check them.

        Raises:
            UserError: for a value that a group refuses, or groups that don't go together.
        """
        check_groups(config)
        groups = {group: build(config[group]) for group in OPTION_GROUPS}
        recipe = build(config.optim)
        check_data(config.data)
        _check_student(student, config, teacher)
        build(config.teacher)
        source = build_source(config)
        labelled = labelled_sources(groups["evaluation"], source)
        _check_tasks(groups["evaluation"], labelled[0], config)
        crops, augment, masks = build(config.crops), build(config.augment), config.method.masks
        try:
            augment.check(global_size=crops.global_size, local_size=crops.local_size, num_local=crops.num_local)
        except ValueError as error:
            raise UserError(f"augment.{error}") from error
        if masks is not None:
            masks = build(masks, grid=crops.global_size // config.model.patch_size, seed=config.seed)
        return cls(
            config=config,
            recipe=recipe,
            source=source,
            fingerprint=source.fingerprint(),
            crops=crops,
            augment=augment,
            masks=masks,
            labelled=labelled,
            teacher=teacher,
            teacher_digest=teacher and teacher.digest(),
            student=student,
            **groups,
        )

    def of_student(self, name: str, config: DictConfig) -> Settings:
        """The same for another student of the run; all but its networks and its folder is shared.

        Raises:
            UserError: if it does not go together with the rest.
        """
        _check_student(name, config, self.teacher)
        return replace(self, config=config, student=name)

    def without_tensors(self) -> Settings:
        """The same once the teacher is built, which then need not be held twice."""
        return replace(self, teacher=self.teacher and self.teacher.without_tensors())

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)

    @property
    def text(self) -> str:
        """The resolved configuration as YAML, without secrets."""
        return OmegaConf.to_yaml(without_secrets(self.config))


def labelled_sources(options: EvaluationOptions, source: Source) -> tuple[Source, Source | None]:
    """Where k-NN takes its images from: the folders that were given, or the training source.

    Raises:
        UserError: if a folder is missing or has no classes.
    """
    if options.train_root is None:
        return source, source.test()
    folders = {"train_root": options.train_root, "test_root": options.test_root}
    found: dict[str, FolderSource | None] = {"test_root": None}
    for key, folder in folders.items():
        if folder is None:
            continue
        try:
            found[key] = FolderSource(root=folder)
        except UserError as error:
            raise UserError(str(error).replace("data.root", f"evaluation.{key}", 1)) from error
        if getattr(found[key], "labels", None) is None:
            raise UserError(f"evaluation.{key}: {folder} has no labels; expected one sub-folder of images per class")
    train, test = found["train_root"], found["test_root"]
    assert train is not None
    return train, None if test is None else in_classes_of(train, test, "evaluation.test_root")


def _check_tasks(options: EvaluationOptions, source: Source, config: DictConfig) -> None:
    others = [task for task in options.tasks if task != "knn"]
    for task in others:
        build(config.tasks[task])
    if others and source.labels is None:
        raise UserError(
            f"evaluation.tasks: {', '.join(others)}, but the images have no labels; expected "
            "evaluation.train_root=FOLDER with a sub-folder per class"
        )


def check_data(data: DictConfig) -> None:
    """Make sure that the keys that all groups of data have are of use.

    Raises:
        UserError: with the first that is not.
    """
    for key in ("mean", "std"):
        values = list(data[key])
        if len(values) != 3 or not all(isinstance(x, (int, float)) and (x > 0 or key == "mean") for x in values):
            raise UserError(f"data.{key}: got {values}, expected three numbers, one per channel, of images in 0..1")
    share = data.max_broken
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UserError(f"data.max_broken: got {share!r}, expected a share in 0..1")


def check_groups(config: DictConfig) -> None:
    """Make sure that every group has its keys, before anything is read from them.

    Raises:
        UserError: for a group that is something else.
    """
    for key in ("model", "method", "data", "storage", "crops", "augment", "optim", "teacher", "tasks", *OPTION_GROUPS):
        if not isinstance(config[key], DictConfig):
            hint = "; did you mean teacher.weights=...?" if key == "teacher" and config[key] else ""
            raise UserError(f"{key}: got {config[key]!r}, expected the keys of that group{hint}")
    _check_method(config, "objective")
    _check_method(config, "projection" if teacher_needed(config) == "backbone" else "dino_head")
    if config.method.get("ibot_head") is not None:
        _check_method(config, "ibot_head")
    if not isinstance(config.output_dir, str) or not config.output_dir:
        raise UserError(f"output_dir: got {config.output_dir!r}, expected a folder, such as runs/first")
    for key, least in (("seed", 0), ("log_every", 1)):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key}: got {value!r}, expected a whole number, at least {least}")


def _check_method(config: DictConfig, key: str) -> None:
    if not isinstance(config.method.get(key), DictConfig):
        raise UserError(f"method.{key}: got {config.method.get(key)!r}, expected its keys".replace("None", "null"))


def _check_student(name: str, config: DictConfig, teacher: Weights | None) -> None:
    try:
        _check_together(config, teacher)
    except UserError as error:
        raise UserError(f"students: {name}: {error}" if name else str(error)) from error


def _check_together(config: DictConfig, teacher: Weights | None) -> None:
    if config.method.masks is None and teacher_needed(config) is None and config.method.objective.ibot_weight:
        raise UserError("method.masks: null, but method.objective.ibot_weight is not 0: expected masks, or weight 0")
    patch = config.model.patch_size
    if patch < 1:
        raise UserError(f"model.patch_size: got {patch}, expected at least 1")
    for key in ("global_size", "local_size") if config.crops.num_local else ("global_size",):
        size = config.crops[key]
        if size % patch or size < patch:
            near = max(round(size / patch), 1) * patch
            raise UserError(f"crops.{key}: {size} px is not a multiple of model.patch_size {patch}; {near} would be")
    size = config.evaluation.size
    if size is not None and size % patch:
        raise UserError(f"evaluation.size: {size} px is not a multiple of model.patch_size {patch}")
    if teacher is not None:
        check_pair(config, teacher)
