"""A configuration as checked objects, before anything large is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.options import (
    CheckpointOptions,
    EvaluationOptions,
    LoggingOptions,
    ParallelOptions,
    ResumeOptions,
    RuntimeOptions,
)
from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.optim.recipe import OptimizationRecipe


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a part of the configuration; what its constructor refuses becomes one line.

    Raises:
        UserError: with the message of the constructor.
    """
    try:
        made = instantiate(node, _convert_="all")
        return made(**arguments) if node.get("_partial_") else made
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, UserError)):
            raise UserError(str(cause)) from cause
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class Settings:
    """All groups of keys as objects, and the source of images."""

    config: DictConfig
    recipe: OptimizationRecipe
    parallel: ParallelOptions
    runtime: RuntimeOptions
    checkpoint: CheckpointOptions
    resume: ResumeOptions
    evaluation: EvaluationOptions
    logging: LoggingOptions
    source: Source

    @classmethod
    def of(cls, config: DictConfig) -> Settings:
        """Build and check them.

        Raises:
            UserError: for a value that a group refuses, or groups that don't go together.
        """
        _check_root(config)
        groups = ("parallel", "runtime", "checkpoint", "resume", "evaluation", "logging")
        settings = cls(
            config=config,
            recipe=build(config.optim),
            **{group: build(config[group]) for group in groups},
            source=build(config.data.source),
        )
        _check_together(config)
        return settings

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)

    @property
    def text(self) -> str:
        """The resolved configuration as YAML."""
        return OmegaConf.to_yaml(self.config, resolve=True)


def _check_root(config: DictConfig) -> None:
    for key, least in (("seed", 0), ("log_every", 1)):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key}: got {value!r}, expected a whole number, at least {least}")


def _check_together(config: DictConfig) -> None:
    if config.method.masks is None and config.method.objective.ibot_weight:
        raise UserError("method.masks: null, but method.objective.ibot_weight is not 0: expected masks, or weight 0")
    patch = config.model.patch_size
    for key in ("global_size", "local_size"):
        size = config.crops[key]
        if size % patch or size < patch:
            near = max(round(size / patch), 1) * patch
            raise UserError(f"crops.{key}: {size} px is not a multiple of model.patch_size {patch}; {near} would be")
