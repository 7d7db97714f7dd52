"""Going on with a run of finetune: which checkpoint, and whether all that decides the result is still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.config import differences
from dinotrain.errors import UserError
from dinotrain.reporting.run_folder import object_of, text_of
from dinotrain.training.manifest import complete_checkpoints, read_manifest

HOW = ("micro_batch", "checkpoint_every", "log_every", "threads", "device", "precision")
PLACES = ("weights", "part", "validation_root", "name", "output_dir", "storage")
"""What lies there is told by its hash."""
DATA_PLACES = ("root", "test_root", "base", "val_labels", "cache_mb")
MOST_SHOWN = 8


def open_folder(folder: Path) -> None:
    """Make the run folder.

    Raises:
        UserError: if it can't be made or written to, or holds something else than a run of finetune.
    """
    if (folder / "config.yaml").exists() and "head" not in _config(folder / "config.yaml"):
        raise UserError(f"output_dir: {folder} is the folder of a training run; expected another one")
    if (folder / "results.json").exists() and not (folder / "config.yaml").exists():
        raise UserError(f"output_dir: {folder} holds results of something else; expected another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").open("a").close()
    except OSError as error:
        raise UserError(f"output_dir: can't write to {folder} ({error.strerror})") from error


def is_finished(folder: Path) -> bool:
    """Whether the run has come to its end."""
    return bool(object_of(text_of(folder / "results.json")).get("finished"))


def checkpoint_to_resume(folder: Path, config: DictConfig, record: dict[str, str]) -> Path | None:
    """The latest checkpoint of the folder; None for a fresh start.

    Args:
        record: what the manifests of this run's checkpoints say of weights and images.

    Raises:
        UserError: if it was begun with other weights, images or options.
    """
    found = complete_checkpoints(folder / "checkpoints")
    if not found:
        return None
    try:
        manifest = read_manifest(found[-1])
    except ValueError as error:
        raise UserError(str(error)) from error
    now = OmegaConf.to_container(config, resolve=True)
    assert isinstance(now, dict)
    before = _decisive(_config(found[-1] / "config.yaml"))
    after = _decisive({str(key): value for key, value in now.items()})
    groups = sorted(before.keys() | after.keys())
    changed = differences(*({key: plain.get(key) for key in groups} for plain in (before, after)), groups=groups)
    for key, value in record.items():
        if manifest.get(key) != value:
            changed.insert(0, f"the {key} themselves: {manifest.get(key)} -> {value}")
    if changed:
        more = f"; and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else ""
        raise UserError(
            f"output_dir: {folder} was started with other options: {'; '.join(changed[:MOST_SHOWN])}{more}. Take the "
            "values back, or choose another output_dir"
        )
    return found[-1]


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    """All that decides the result, without the keys that say where something lies."""
    kept = {key: value for key, value in config.items() if key not in (*HOW, *PLACES)}

    def without_places(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: without_places(value) for key, value in node.items() if key not in DATA_PLACES}
        return [without_places(item) for item in node] if isinstance(node, list) else node

    return kept | {"data": without_places(kept.get("data"))}


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read ({str(error).strip().splitlines()[0]})") from error
    if found is None:  # a start that got no further than making it
        return {"head": None}
    if not isinstance(found, dict):
        raise UserError(f"{path} can't be read (not a configuration)")
    return found
