"""Everything that can be said of a job before it is queued."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinotrain.cluster.options import LocalOptions, SlurmOptions
from dinotrain.commands.assembly import divide_batch
from dinotrain.commands.build import build
from dinotrain.commands.config import without_secrets
from dinotrain.commands.pretrain import all_settings, check, choose_device
from dinotrain.commands.settings import OPTION_GROUPS, Settings, check_groups
from dinotrain.errors import UserError
from dinotrain.optim.recipe import OptimizationRecipe


def check_run(config: DictConfig, options: SlurmOptions | LocalOptions) -> list[Settings]:
    """Look for what is wrong with a run: what training looks for, on this machine, and how it is divided.

    Returns:
        The settings of its students; none where data and teacher were not to be looked at.

    Raises:
        UserError: in one line.
    """
    check_groups(config)
    _refuse_secrets(config)
    recipe = build(config.optim)
    _refuse_finished(Path(config.output_dir), recipe)
    if isinstance(options, LocalOptions):
        choose_device(build(config.runtime).device)
    elif options.tasks > options.gpus_per_node > 0 and build(config.runtime).device != "cpu":
        raise UserError(
            f"cluster.tasks_per_node: got {options.tasks}, but there are {options.gpus_per_node} GPUs on each node "
            "(cluster.gpus_per_node); expected a GPU for each process"
        )
    _check_division(config, recipe, processes(config, options))
    if options.check == "full":
        settings = all_settings(config)
        for student in settings:
            check(student)
        return settings
    for group in OPTION_GROUPS:
        build(config[group])
    return []


def processes(config: DictConfig, options: SlurmOptions | LocalOptions) -> int:
    """Of the whole job."""
    if isinstance(options, SlurmOptions):
        return options.processes
    return options.tasks or (1 if build(config.runtime).device == "cpu" else gpus_here())


def gpus_here() -> int:
    """Of this machine, at least one: without any, there is one process."""
    import torch

    return max(torch.cuda.device_count(), 1)


def _check_division(config: DictConfig, recipe: OptimizationRecipe, number: int) -> None:
    divide_batch(recipe.global_batch, number, micro_batch=recipe.micro_batch, limit=recipe.micro_batch_limit)
    shard = build(config.parallel).shard_size
    if shard is not None and (shard < 1 or number % shard):
        raise UserError(f"parallel.shard_size: got {shard}, expected a divisor of the {number} processes")


def _refuse_secrets(config: DictConfig) -> None:
    if without_secrets(config) == config:
        return
    shown = OmegaConf.to_container(without_secrets(config).storage.options)
    raise UserError(
        f"storage.options.{next(_hidden(shown))}: would be written to the job's files; give secrets through the "
        "environment, which the job gets as it is here (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE ...)"
    )


def _hidden(node: Any) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from (f"{key}.{name}" for name in _hidden(value))
        elif value == "...":
            yield str(key)


def _refuse_finished(run_dir: Path, recipe: OptimizationRecipe) -> None:
    """By the results of the run, or of each of its students."""
    try:
        results = json.loads((run_dir / "results.json").read_text())
    except (OSError, ValueError):
        return
    students = [results] if "finished" in results else list(results.values())
    if students and all(each.get("finished") and each.get("steps", 0) >= recipe.steps for each in students):
        steps = max(each["steps"] for each in students)
        raise UserError(f"output_dir: {run_dir} is finished already (all {steps} steps); choose another output_dir")


def machine_folder(path: Path) -> str | None:
    """Why a folder looks as if other machines did not see it; None if it does not."""
    real = Path(os.path.realpath(path))
    for name in ("/tmp", "/var/tmp", "/dev/shm"):
        if real.is_relative_to(name):
            return f"is in {name}"
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return None
    above = [(len(mount[1]), mount[2]) for mount in mounts if len(mount) > 2 and real.is_relative_to(mount[1])]
    kind = max(above, default=(0, ""))[1]
    return f"is in memory ({kind})" if kind in ("tmpfs", "ramfs") else None
