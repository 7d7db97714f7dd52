"""Where the results of an evaluation go."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.errors import UserError
from dinotrain.weights.runs import find_checkpoint
from dinotrain.weights.weights import Weights

FOLDER = "evaluations"
DECISIVE = ("seed", "precision", "mean", "std")
"""Keys that make other results."""
NAMED_BY_ROOT = (
    *("folder", "listing", "shards", "parquet", "hub", "arrays"),
    *("mask_folder", "depth_folder", "multilabel_csv"),
)
"""Modules of sources that say little of the images: their folder or file says more."""


def results_folder(request: EvaluationRequest, config: DictConfig, weights: Weights, facts: Sequence[object]) -> Path:
    """The folder that was named, or one of its own for these weights and images; made if it is not there.

    Args:
        facts: of weights and images, what decides results beside what was typed.

    Raises:
        UserError: if it can't be made or written to.
    """
    if request.output_dir:
        folder = Path(request.output_dir)
    else:
        step = step_of(weights)
        words = [data_name(config), *([] if step is None else [f"{step:08d}"])]
        own = "_".join([*words, _brief([*facts, *(getattr(request, key) for key in DECISIVE)])])
        folder = above(weights.path) / (request.name or own)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without a name of its own, several processes can try at once.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"output_dir: can't write to {folder} ({error.strerror})") from error
    if _is_run(folder):
        raise UserError(f"output_dir: {folder} is the folder of a training run; expected one for results alone")
    return folder


def step_of(weights: Weights) -> int | None:
    """The step of training that weights are from, where that is known."""
    found = re.search(r"at step (\d+)", weights.layout)
    return int(found[1]) if found else None


def above(weights: str) -> Path:
    """The folder for all evaluations of weights: that of their run, if they are of one."""
    path = Path(weights).expanduser()
    checkpoint = find_checkpoint(path) if path.is_dir() else None
    if checkpoint is None:
        return path.parent / FOLDER if _is_run(path.parent) else Path(FOLDER) / path.stem
    # A checkpoint lies in RUN/checkpoints.
    run = checkpoint.parent.parent
    return (run if _is_run(run) else path) / FOLDER


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists() and (folder / "metrics.jsonl").exists()


def data_name(config: DictConfig) -> str:
    """What the images are called: their kind, or their folder or file where the kind says little."""
    target = str(OmegaConf.select(config, "data.source._target_") or "data").split(".")
    kind, root = target[-2], OmegaConf.select(config, "data.root")
    return Path(str(root)).stem or kind if root and kind in NAMED_BY_ROOT else kind


def _brief(facts: Sequence[object]) -> str:
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:8]
