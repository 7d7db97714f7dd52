"""Going on with a run: which checkpoint, and whether the recipe is still the same."""

from __future__ import annotations

from pathlib import Path

import yaml
from omegaconf import OmegaConf

from dinotrain.commands.config import differences
from dinotrain.commands.settings import Settings
from dinotrain.errors import UserError
from dinotrain.training.checkpoint import MANIFEST, checkpoint_step, complete_checkpoints


def checkpoint_to_resume(settings: Settings) -> Path | None:
    """The checkpoint to start from; None for a fresh start.

    Raises:
        UserError: if going on would lose something, or mean something else than what was begun.
    """
    found = complete_checkpoints(settings.run_dir / "checkpoints")
    options = settings.resume
    if not options.enabled:
        if found:
            raise UserError(
                f"resume.enabled: false, but {settings.run_dir} holds checkpoints up to step "
                f"{checkpoint_step(found[-1])}; choose another output_dir, or move them away"
            )
        return None
    if options.checkpoint is not None:
        chosen = _named(options.checkpoint, found)
    elif found:
        chosen = found[-1]
    else:
        return None
    check_unchanged(settings, chosen)
    return chosen


def _named(name: str, found: list[Path]) -> Path:
    path = Path(name)
    if not (path / MANIFEST).exists():
        raise UserError(f"resume.checkpoint: {path} is not a complete checkpoint; expected a folder .../step_<number>")
    newer = [other for other in found if checkpoint_step(other) > checkpoint_step(path)]
    if newer:
        names = ", ".join(other.name for other in newer)
        raise UserError(
            f"resume.checkpoint: output_dir holds newer checkpoints than {path.name} ({names}), "
            "which would be mixed with the new ones; choose another output_dir, or move them away"
        )
    return path


def check_unchanged(settings: Settings, checkpoint: Path) -> None:
    """Refuse another recipe than the checkpoint's, unless it is allowed.

    Raises:
        UserError: with the list of differences.
    """
    before = yaml.safe_load((checkpoint / "config.yaml").read_text())
    now = OmegaConf.to_container(settings.config, resolve=True)
    assert isinstance(now, dict)
    changed = differences(before, now)
    if changed and not settings.resume.allow_changes:
        raise UserError(
            f"{settings.run_dir} was started with another recipe: {'; '.join(changed)}. "
            "Take the values back, choose another output_dir, or set resume.allow_changes=true"
        )
