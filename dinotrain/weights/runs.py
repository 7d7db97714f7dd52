"""Weights of this trainer: runs, checkpoints of any number of processes, and exported backbones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.models.networks import HEADS
from dinotrain.training.manifest import MANIFEST, checksum, complete_checkpoints, read_manifest
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.checkpoint_tensors import CheckpointTensors
from dinotrain.weights.files import Stored
from dinotrain.weights.safetensors_file import write_safetensors
from dinotrain.weights.shapes import Shapes
from dinotrain.weights.weights import Normalization, Weights, read_normalization

EXPORT = "backbone.safetensors"
FORMAT = "dinotrain"
PARTS = {"ema": "EMA of the student", "teacher": "teacher", "student": "student"}
"""What a checkpoint may hold, best first."""


def find_checkpoint(folder: Path) -> Path | None:
    """The folder itself if it is a checkpoint, else the newest complete one of the run; None if there is none."""
    if (folder / MANIFEST).exists():
        return folder
    found = complete_checkpoints(folder / "checkpoints") or complete_checkpoints(folder)
    return found[-1] if found else None


def read_checkpoint(folder: Path, part: str | None = None) -> Weights:
    """The networks of one part of a checkpoint, none of them read before it is used.

    Args:
        part: "teacher", "student" or "ema"; None for the network that such a run is about.

    Raises:
        UserError: if a file is missing or damaged, or there is no such part.
    """
    try:
        manifest = read_manifest(folder)
        step, files = int(manifest["numbers"]["step"]), dict(manifest["files"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(f"{MANIFEST} can't be read, or another version of this trainer wrote it") from error
    _verify(folder, files)
    tensors = CheckpointTensors(folder)
    chosen = _choose([name for name in PARTS if len(tensors.below(f"{name}.backbone."))], part)
    networks = tensors.below(f"{chosen}.")
    config = _config(folder)
    heads = {name: networks.below(f"{name}.") for name in HEADS}
    return Weights(
        path=str(folder),
        layout=f"run of this trainer, {PARTS[chosen]} at step {step}",
        architecture=configured_architecture(config.get("model"), networks.below("backbone.").shapes),
        backbone=networks.below("backbone."),
        heads={name: head for name, head in heads.items() if len(head)},
        normalization=read_normalization(config.get("data"), "mean", "std", "config.yaml: data."),
    )


def write_backbone(
    path: str | Path,
    backbone: Mapping[str, Tensor],
    architecture: Architecture,
    normalization: Normalization | None = None,
) -> None:
    """Write one file with all that is needed to use a backbone; complete or not at all.

    Args:
        backbone: by the names of `VisionTransformer`; stored in the types they have.
    """
    path = Path(path)
    weights = Weights(path=str(path), layout="", architecture=architecture, backbone=backbone)
    words = {"format": FORMAT, "architecture": json.dumps(vars(architecture)), "content": weights.digest()}
    if normalization is not None:
        words["normalization"] = json.dumps(normalization)
    write_safetensors(path, backbone, words)


def is_export(stored: Stored) -> bool:
    """Whether a file is one of `write_backbone`."""
    return stored.metadata.get("format") == FORMAT


def read_export(path: Path, stored: Stored) -> Weights:
    """What `write_backbone` wrote.

    Raises:
        UserError: if the file says of itself what can't be, or its numbers are not those that were written.
    """
    words = stored.metadata
    try:
        architecture = Architecture(**json.loads(words["architecture"]))
        mean, std = json.loads(words.get("normalization", "[[], []]"))
        normalization = read_normalization({"mean": mean, "std": std}, "mean", "std")
    except (UserError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"its description is damaged, or from a newer version of this trainer ({error})") from error
    weights = Weights(
        path=str(path),
        layout="exported backbone of this trainer",
        architecture=architecture,
        backbone=stored.tree,
        normalization=normalization,
    )
    if "content" in words and words["content"] != weights.digest():
        raise UserError("damaged: its numbers are not those that were written")
    return weights


def _choose(found: list[str], part: str | None) -> str:
    if not found:
        raise UserError("a checkpoint without networks")
    if part is not None and part not in found:
        raise UserError(f"no {part} here: there is {', '.join(found)}")
    return part or found[0]


def _verify(folder: Path, files: dict[str, Any]) -> None:
    """Compare sizes and checksums of all files with what was written."""
    for name, written in files.items():
        try:
            intact = checksum(folder / name) == written
        except OSError:
            intact = False
        if not intact:
            raise UserError(f"{name} is missing, or changed since it was written: this checkpoint is damaged")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"config.yaml can't be read ({str(error).splitlines()[0]})") from error
    if isinstance(config, dict) and "head" in config:
        raise UserError("a run of finetune that has not ended; the same command goes on, and leaves a classifier")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError("config.yaml says nothing of the model")
    return config


def configured_architecture(model: Any, shapes: Shapes) -> Architecture:
    """What the group `model` of a run's configuration says; what it leaves open is as the network's own defaults.

    Raises:
        UserError: if it does not describe a network.
    """
    try:
        registers = int(model["num_registers"])
        return Architecture(
            **{name: int(model[name]) for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads")},
            channels=int(model.get("channels", shapes["patch_embed.proj.weight"][1])),
            ffn=model["ffn"],
            ffn_ratio=float(model["ffn_ratio"]),
            num_registers=registers,
            layer_scale=model["layer_scale"] is not None,
            position_resize=model.get("position_resize") or ("size" if registers else "scale"),
            norm_eps=float(model.get("norm_eps", 1e-6)),
        )
    except UserError as error:
        raise UserError(f"config.yaml does not describe a network: {error}") from error
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"config.yaml does not describe a network: {type(error).__name__} {error}") from error
