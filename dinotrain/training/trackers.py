"""Weights & Biases and TensorBoard, beside `metrics.jsonl`; imported only when asked for."""

from __future__ import annotations

import importlib
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from dinotrain.errors import UserError

Value = float | int | str | None

WANDB_MODES = ("disabled", "online", "offline")


class Tracker(Protocol):
    """A place outside the run folder's own files that is told what happens."""

    def log(self, step: int, row: Mapping[str, Value]) -> None: ...

    def image(self, step: int, name: str, path: Path) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """All trackers that are asked for, as one; none is fine.

    Args:
        run_dir: the run folder; what trackers write goes there too.
        wandb: Weights & Biases: disabled, online, or offline (for `wandb sync` later).
        wandb_project: the project there.
        tensorboard: write event files to `tensorboard/` in the run folder.
        config: the resolved configuration, shown by Weights & Biases.

    Raises:
        UserError: a package is missing, or Weights & Biases can't be reached.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        wandb: str = "disabled",
        wandb_project: str = "dinotrain",
        tensorboard: bool = False,
        config: Mapping[Any, Any] | None = None,
    ) -> None:
        if wandb not in WANDB_MODES:
            raise ValueError(f"logging.wandb: got {wandb!r}, expected one of {', '.join(WANDB_MODES)}")
        self._trackers: list[Tracker] = []
        if tensorboard:
            self._trackers.append(TensorBoardTracker(run_dir))
        if wandb != "disabled":
            self._trackers.append(WandbTracker(run_dir, mode=wandb, project=wandb_project, config=config or {}))

    def log(self, step: int, row: Mapping[str, Value]) -> None:
        """Hand on a row of metrics."""
        for tracker in self._trackers:
            tracker.log(step, row)

    def image(self, step: int, name: str, path: Path) -> None:
        """Hand on a picture in the run folder."""
        for tracker in self._trackers:
            tracker.image(step, name, path)

    def close(self) -> None:
        """Send what is still waiting, and end."""
        for tracker in self._trackers:
            tracker.close()


class WandbTracker:
    """One run of Weights & Biases per run folder: its id is kept in `wandb_id.txt`, and used again on resume."""

    def __init__(self, run_dir: Path, *, mode: str, project: str, config: Mapping[Any, Any]) -> None:
        self._wandb = _require("wandb", pip="wandb", key="logging.wandb")
        try:
            self._run = self._wandb.init(
                project=project,
                name=run_dir.name,
                id=_kept_id(run_dir / "wandb_id.txt"),
                # Offline runs of one id become one run when they are synced; W&B refuses `resume` for them.
                resume="allow" if mode == "online" else None,
                mode=mode,
                dir=str(run_dir),
                config=_plain(config),
                # Several students of one process are several runs at once.
                settings=self._wandb.Settings(console="off", silent=True, reinit="create_new"),
            )
        except self._wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"logging.wandb: {reason}; logging.wandb=offline needs neither account nor network"
            ) from error
        # Steps are an axis, not W&B's own counter: rows between the last checkpoint and a kill are logged twice.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, row: Mapping[str, Value]) -> None:
        self._run.log({key: value for key, value in row.items() if value is not None} | {"step": step})

    def image(self, step: int, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path)), "step": step})

    def close(self) -> None:
        self._run.finish()


class TensorBoardTracker:
    """Event files in `tensorboard/` of the run folder."""

    def __init__(self, run_dir: Path) -> None:
        # torch's module says nothing of which package is missing.
        _require("tensorboard", pip='"dinotrain[tensorboard]"', key="logging.tensorboard")
        self._folder, self._writer = run_dir / "tensorboard", None

    def log(self, step: int, row: Mapping[str, Value]) -> None:
        for key, value in row.items():
            if key not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value):
                self._open(step).add_scalar(key, value, step)

    def image(self, step: int, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        self._open(step).add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run logged after its last checkpoint is hidden once the resumed run logs it again.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer


def _require(module: str, *, pip: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{key}: the package {module} is missing here; install it with: pip install {pip}") from error


def _kept_id(path: Path) -> str:
    """The id of the run in this folder, drawn once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        beside.write_text(secrets.token_hex(8))
        os.replace(beside, path)
    return path.read_text().strip()


def _plain(value: Any) -> Any:
    """Nested mappings and lists as dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in value}
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return value
    return [_plain(item) for item in value]
