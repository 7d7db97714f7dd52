"""The configuration of a run that was submitted."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.errors import UserError


def submitted_config(folder: Path, *, restarted: bool) -> DictConfig:
    """Read it from the folder of its submission, where it was written after all checks.

    Args:
        restarted: whether the job ran before, and so goes on whatever the configuration says of resuming.

    Raises:
        UserError: if it can't be read.
    """
    path = folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f"{path}: can't be read ({str(error).splitlines()[0]})") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path}: is not a configuration")
    if restarted:
        config.resume.enabled = True
    return config
