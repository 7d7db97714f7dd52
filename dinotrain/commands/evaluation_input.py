"""In which size and cut a network is shown the images of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.errors import UserError
from dinotrain.reporting.run_folder import text_of
from dinotrain.weights.runs import find_checkpoint
from dinotrain.weights.weights import Weights

USUAL_SIZE = 224
USUAL_CROP = 0.875


class Input(NamedTuple):
    """What images are made of, but for the normalisation."""

    size: int
    """px."""
    crop_fraction: float
    """Of the resized short side."""


def input_of(request: EvaluationRequest, weights: Weights) -> Input:
    """As typed; else as the run that trained the network evaluated it; else as usual.

    Raises:
        UserError: if the size is not a multiple of the patch size.
    """
    own = _habits(Path(weights.path).expanduser())
    patch = weights.architecture.patch_size
    size = request.size or own.get("size")
    if size is None:
        size = max(min(USUAL_SIZE, weights.architecture.image_size) // patch, 1) * patch
    if size % patch:
        near = max(round(size / patch), 1) * patch
        raise UserError(f"size: {size} px is not a multiple of the patches of {patch} px of these weights; {near} is")
    return Input(size, request.crop_fraction or own.get("crop_fraction") or USUAL_CROP)


def _habits(path: Path) -> dict[str, Any]:
    """How a run evaluates: the group `evaluation` of its configuration, where the weights are of a run."""
    folder = find_checkpoint(path) if path.is_dir() else path.parent
    if folder is None:
        return {}
    try:
        config = yaml.safe_load(text_of(folder / "config.yaml"))
    except yaml.YAMLError:
        return {}
    found = config.get("evaluation") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}
