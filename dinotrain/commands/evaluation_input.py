"""In which size and cut a network is shown the images of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import yaml

from dinotrain.commands.backbone_request import BackboneRequest
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


def input_of(request: BackboneRequest, weights: Weights) -> Input:
    """As typed; else as the classifier takes it that the network is of, or as its run evaluated it; else as usual.

    Raises:
        UserError: if the size is not a multiple of the patch size.
    """
    own_size, own_crop = weights.input or _habits(Path(weights.path).expanduser())
    patch = weights.architecture.patch_size
    size = request.size or own_size
    if size is None:
        size = max(min(USUAL_SIZE, weights.architecture.image_size) // patch, 1) * patch
    if size % patch:
        near = max(round(size / patch), 1) * patch
        raise UserError(f"size: {size} px is not a multiple of the patches of {patch} px of these weights; {near} is")
    return Input(size, request.crop_fraction or own_crop or USUAL_CROP)


def _habits(path: Path) -> tuple[int | None, float | None]:
    """How a run evaluates: size and crop in its configuration, where the weights are of a run."""
    folder = find_checkpoint(path) if path.is_dir() else path.parent
    if folder is None:
        return None, None
    try:
        config = yaml.safe_load(text_of(folder / "config.yaml"))
    except yaml.YAMLError:
        return None, None
    found = config.get("evaluation") if isinstance(config, dict) else None
    return (found.get("size"), found.get("crop_fraction")) if isinstance(found, dict) else (None, None)
