"""Going on with a run: which checkpoint, and whether the recipe is still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from dinotrain.commands.config import differences
from dinotrain.commands.options import StartOptions, TeacherOptions
from dinotrain.commands.settings import Settings
from dinotrain.errors import UserError
from dinotrain.training.manifest import MANIFEST, checkpoint_step, complete_checkpoints, read_manifest


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
    if checkpoint_step(chosen) > settings.recipe.steps:
        raise UserError(f"optim.steps: got {settings.recipe.steps}, but {chosen} is past that step already")
    return chosen


def record(settings: Settings, start: Path | None, frozen_steps: int) -> dict[str, str | int | None]:
    """What the manifests of this run's checkpoints say beside their numbers: data, teacher, and where it came from."""
    origin = settings.resume.checkpoint
    if start is not None and (origin is None or Path(origin).resolve() != start.resolve()):
        origin = _manifest(start).get("origin")
    return {
        "frozen_steps": frozen_steps,
        "data": settings.fingerprint,
        "teacher": settings.teacher_digest,
        "origin": origin and str(Path(origin).resolve()),
    }


def recorded_frozen_steps(checkpoint: Path) -> int:
    """For how many steps of the run of this checkpoint the backbone is frozen: its beginning is not read again."""
    return int(_manifest(checkpoint).get("frozen_steps") or 0)


def _named(name: str, found: list[Path]) -> Path:
    path = Path(name)
    if not (path / MANIFEST).exists():
        raise UserError(f"resume.checkpoint: {path} is not a complete checkpoint; expected a folder .../step_<number>")
    try:
        checkpoint_step(path)
    except ValueError as error:
        raise UserError(f"resume.checkpoint: {error}") from error
    newer = [other for other in found if checkpoint_step(other) > checkpoint_step(path)]
    if newer and _manifest(newer[-1]).get("origin") == str(path.resolve()):
        return newer[-1]  # the same command as at the start of this run, which has come further since
    if newer:
        names = ", ".join(other.name for other in newer)
        raise UserError(
            f"resume.checkpoint: output_dir holds newer checkpoints than {path.name} ({names}), "
            "which would be mixed with the new ones; choose another output_dir, or move them away"
        )
    return path


PLACES = {"data": ("root", "base", "val_labels", "cache_mb"), "teacher": ("weights", "part")}
"""Keys that say where something lies; what lies there is told by its hash."""
MOST_SHOWN = 8


def _without_places(config: dict) -> dict:
    """A configuration without the keys that say where images and teacher lie."""

    def without(node: Any, places: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {key: without(value, places) for key, value in node.items() if key not in places}
        return [without(item, places) for item in node] if isinstance(node, list) else node

    return {**config, **{group: without(config.get(group), places) for group, places in PLACES.items()}}


def _with_newer_keys(before: dict, now: dict) -> dict:
    """An older configuration with the groups and keys that came since, which then had no other value than these."""
    model = {"norm_eps": 1e-6, **before["model"]} if isinstance(before.get("model"), dict) else before.get("model")
    since = {"train": StartOptions(), "teacher": TeacherOptions()}
    groups = {
        name: {"_target_": now[name]["_target_"], **vars(options)} for name, options in since.items() if name in now
    }
    return {**groups, **before, "model": model}


def _manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        return read_manifest(checkpoint)
    except ValueError as error:
        raise UserError(str(error)) from error


def _unreadable(path: Path, reason: object) -> str:
    why = str(reason).strip().splitlines()[0]
    return f"{path} can't be read ({why}): remove that checkpoint's folder to go on from the one before"


def check_unchanged(settings: Settings, checkpoint: Path) -> None:
    """Refuse another recipe than the checkpoint's, unless it is allowed.

    Raises:
        UserError: with the list of differences.
    """
    path = checkpoint / "config.yaml"
    try:
        before = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(_unreadable(path, error)) from error
    if not isinstance(before, dict):
        raise UserError(_unreadable(path, "not a configuration"))
    now = OmegaConf.to_container(settings.config, resolve=True)
    assert isinstance(now, dict)
    # Where the images and the teacher lie does not matter, what they are does.
    changed = differences(_without_places(_with_newer_keys(before, now)), _without_places(now))
    manifest = _manifest(checkpoint)
    for what, key, here in (
        ("teacher itself", "teacher", settings.teacher_digest),
        ("images themselves", "data", settings.fingerprint),
    ):
        if manifest.get(key) != here:
            changed.insert(0, f"the {what}: {manifest.get(key)} -> {here}")
    if changed and not settings.resume.allow_changes:
        more = f"; and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else ""
        raise UserError(
            f"{settings.run_dir} was started with another recipe: {'; '.join(changed[:MOST_SHOWN])}{more}. "
            "Take the values back, choose another output_dir, or set resume.allow_changes=true"
        )
