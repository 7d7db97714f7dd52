"""One visualization, from what was typed to the page."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dinotrain.commands.config import compose_config
from dinotrain.commands.evaluation import identity_of
from dinotrain.commands.evaluation_input import input_of
from dinotrain.commands.frozen import frozen_backbone
from dinotrain.commands.pretrain import choose_device
from dinotrain.commands.visualization_images import Picture, pictures_of, source_at
from dinotrain.commands.visualization_options import VisualizationRequest
from dinotrain.distributed.world import World
from dinotrain.errors import Status, UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.reading import MOST_THREADS
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import whole
from dinotrain.evaluation.store import FeatureStore
from dinotrain.evaluation.tiles import GREY, ORANGE, tile, tile_of
from dinotrain.reporting.environment import usable_cores
from dinotrain.visualizing.colors import joint_colors
from dinotrain.visualizing.files import write_pictures
from dinotrain.visualizing.nearest import Found, nearest_rows
from dinotrain.visualizing.page import Visualization, write_visualization
from dinotrain.visualizing.seen import Seen, see
from dinotrain.weights.weights import Weights

GROUPS = ("data", "storage")
RECORD = "visualization.json"
"""By which a folder of this command is known: its files may be written over."""


def visualize(overrides: Sequence[str], images: Sequence[str]) -> Status:
    """Write the page and the pictures.

    Args:
        images: paths of files, folders and so on; none for the images of the configuration.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    config = compose_config("visualize", overrides)
    request = request_of(config)
    folder = _folder(request.folder)
    weights = request.read_weights()
    device = torch.device(choose_device(request.device, key="device"))
    size, crop_fraction = input_of(request, weights)
    pictures, count = pictures_of(config, images, request.limit)
    backbone = frozen_backbone(
        weights,
        device=device,
        size=size,
        crop_fraction=crop_fraction,
        mean=None if request.mean is None else tuple(request.mean),
        std=None if request.std is None else tuple(request.std),
        precision=request.precision,
    )
    seen = [see(backbone, picture.name, picture.image, size=size, square=request.square) for picture in pictures]
    shown = Visualization(
        title=f"What {Path(weights.path).name or weights.path} sees",
        facts=_facts(weights, backbone, request, len(pictures), count),
        seen=seen,
        colored=joint_colors(seen, request.shown),
        neighbours=_neighbours(request, weights, backbone, pictures),
        bank=request.bank,
        patch=_asked(request, seen),
        notes=weights.notes,
    )
    _write(folder, shown, pictures)
    return Status.DONE


def request_of(config: DictConfig) -> VisualizationRequest:
    """The keys that are not of a group.

    Raises:
        UserError: for a value that is refused.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for group in GROUPS:
        if not isinstance(config[group], DictConfig):
            raise UserError(f"{group}: got {config[group]!r}, expected the keys of that group")
    return VisualizationRequest(**{str(key): value for key, value in plain.items() if key not in GROUPS})


def _folder(folder: Path) -> Path:
    """The folder, made if it is not there, and found to be of use."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = (folder / RECORD).exists() or not any(folder.iterdir())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"out: can't write to {folder} ({error.strerror})") from error
    if not known:
        raise UserError(f"out: {folder} holds other files; expected a new folder, or one of this command")
    return folder


def _asked(request: VisualizationRequest, seen: Sequence[Seen]) -> tuple[int, int]:
    if request.patch is None:
        return 0, int(seen[0].attention.mean(dim=0).argmax())
    image, patch = request.patch
    if image >= len(seen):
        raise UserError(f"patch: got image {image}, expected one of 0..{len(seen) - 1}")
    if patch >= seen[image].count:
        rows, columns = seen[image].grid
        raise UserError(
            f"patch: got {patch}, but image {image} has {rows} x {columns}; expected 0..{rows * columns - 1}"
        )
    return image, patch


def _neighbours(
    request: VisualizationRequest, weights: Weights, backbone: Backbone, pictures: Sequence[Picture]
) -> list[list[Found]]:
    """By CLS tokens of images as an evaluation takes them."""
    if not request.k:
        return [[] for _ in pictures]
    own = torch.cat([_cls(backbone, picture) for picture in pictures])
    if request.bank is None:
        return [
            [Found(pictures[row].name, value, tile(pictures[row].image, GREY)) for row, value in near]
            for near in nearest_rows(own, own, request.k, themselves=True)
        ]
    split = whole(source_at(request.bank, "bank"), "bank")
    world = World(0, 1, 0, 1, backbone.device, None)
    setting = Setting(
        backbone=backbone,
        world=world,
        train=split,
        test=split,
        batch=request.batch,
        threads=request.threads or min(usable_cores(), MOST_THREADS),
        store=FeatureStore.of_user(world),
        identity=identity_of(weights),
    )
    features = setting.features(split)
    found = nearest_rows(features.values, own, request.k, themselves=False)
    return [
        [
            Found(split.source.name(index), value, tile_of(split.source, index, GREY))
            for index, value in ((int(features.rows[row]), value) for row, value in near)
        ]
        for near in found
    ]


def _cls(backbone: Backbone, picture: Picture) -> Tensor:
    images = backbone.normalize(backbone.preparation.pixels(picture.image).unsqueeze(0))
    return backbone.pooled(images, ["cls_1"])["cls_1"].cpu()


def _facts(
    weights: Weights, backbone: Backbone, request: VisualizationRequest, shown: int, count: int
) -> list[tuple[str, str]]:
    size, patch = backbone.preparation.size, backbone.patch_size
    own = "the middle square" if request.square else "in their own aspect ratio"
    return [
        ("weights", f"{weights.path}: {weights.layout}"),
        ("network", weights.architecture.brief()),
        ("images", _counted(shown, count, request.limit)),
        ("input", f"about {size} x {size} px, {own}; patches of {patch} px"),
        ("neighbours", f"of {request.bank}" if request.bank else "of these images"),
    ]


def _counted(shown: int, count: int, limit: int) -> str:
    if shown < min(limit, count):
        return f"{shown:,} of {count:,}, the others can't be read"
    return f"{shown:,}" if shown == count else f"{shown:,} of {count:,}, evenly spaced"


def _write(folder: Path, shown: Visualization, pictures: Sequence[Picture]) -> None:
    record = folder / RECORD
    try:
        for name in _written(record):
            (folder / name).unlink(missing_ok=True)
        # First of all: by it the folder is known, also after an interruption.
        record.write_text("{}")
        tiles = [tile(picture.image, ORANGE) for picture in pictures]
        files = write_pictures(folder, shown, tiles)
        page = write_visualization(folder, shown)
        told = {
            "facts": dict(shown.facts),
            "images": [_about(seen, near) for seen, near in zip(shown.seen, shown.neighbours)],
            "files": [page.name, *map(str, files)],
        }
        beside = record.with_suffix(".new")
        beside.write_text(json.dumps(told, indent=1))
        os.replace(beside, record)
    except OSError as error:
        raise UserError(f"out: can't write to {folder} ({error.strerror or error})") from error
    for name, text in shown.facts:
        print(f"{name:<11}{text}")
    print(f"pictures   {len(files)} in {folder}\npage       {page}", flush=True)


def _about(seen: Seen, near: Sequence[Found]) -> dict:
    neighbours = [{"name": found.name, "similarity": round(found.similarity, 6)} for found in near]
    return {"name": seen.name, "rows": seen.grid[0], "columns": seen.grid[1], "neighbours": neighbours}


def _written(record: Path) -> list[str]:
    """Files of the visualization that was there before."""
    try:
        files = json.loads(record.read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in files if isinstance(name, str) and _below(name)]


def _below(name: str) -> bool:
    """Whether a name stays in its folder."""
    return not os.path.isabs(name) and ".." not in Path(name).parts
