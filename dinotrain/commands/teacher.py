"""The frozen teacher of a distillation: found, held against its student, built."""

from __future__ import annotations

from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed.device_mesh import DeviceMesh

from dinotrain.commands.config import HINTS, locate
from dinotrain.commands.usage import config_dir
from dinotrain.distributed.parallelize import Precision, materialize, parallelize
from dinotrain.errors import UserError
from dinotrain.methods.distillation import Distillation
from dinotrain.methods.feature_distillation import FeatureDistillation
from dinotrain.methods.frozen_teacher import FrozenTeacher, Normalization
from dinotrain.models.attention import select_attention
from dinotrain.models.head import Head
from dinotrain.models.networks import HEADS, BackboneNetworks, Networks
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import HeadArchitecture
from dinotrain.weights.fit import load_into
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import IMAGENET, Weights


def teacher_needed(config: DictConfig) -> Literal["heads", "backbone"] | None:
    """What the method must know of a frozen teacher; None for a method without one."""
    method: Any = locate(config.method.objective._target_, "method.objective._target_")
    if issubclass(method, Distillation):
        return "heads"
    return "backbone" if issubclass(method, FeatureDistillation) else None


def read_teacher(config: DictConfig) -> Weights | None:
    """The weights that `teacher.weights` names.

    Raises:
        UserError: if there are none, too many, or they can't be read or used.
    """
    needed, options = teacher_needed(config), config.teacher
    if needed is None:
        if options.weights is not None:
            raise UserError(
                "teacher.weights: this method has no frozen teacher; expected an experiment such as "
                "+experiment=distill_vits14, or train.start_from to begin with these weights"
            )
        return None
    if options.weights is None:
        raise UserError(f"teacher.weights is missing: {HINTS['teacher.weights']}")
    try:
        weights = read_weights(options.weights, part=options.part, num_heads=options.num_heads)
    except UserError as error:
        raise UserError(f"teacher.weights: {error}") from error
    if needed == "heads" and "dino_head" not in weights.heads:
        raise UserError(
            f"teacher.weights: {weights.path} ({weights.layout}) has no heads, so there are no prototypes to distil; "
            f"expected a full checkpoint, or +experiment={_feature_twin(config.name)}, which needs a backbone only"
        )
    return weights if needed == "heads" else weights.without_heads()


def _feature_twin(name: str) -> str:
    """The experiment that matches features where the named one compares prototypes."""
    twin = str(name).removesuffix("_reg4").replace("distill_", "distill_features_", 1)
    return twin if (config_dir() / "experiment" / f"{twin}.yaml").exists() else "distill_features_vits14"


def complete(config: DictConfig, teacher: Weights | None) -> DictConfig:
    """The configuration with the student's heads as wide as the teacher's where they were left open.

    Raises:
        UserError: if the student would have other prototypes.
    """
    if teacher is None or teacher_needed(config) != "heads":
        return config
    completed = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(completed, DictConfig)
    for name in HEADS:
        tensors = teacher.heads.get(name)
        completed.method[name] = None if tensors is None else _head(config.method[name], tensors, f"method.{name}")
    return completed


def _head(node: DictConfig | None, tensors: Any, where: str) -> dict[str, Any]:
    if node is None:
        raise UserError(f"{where}: null, but the teacher has this head; expected its keys")
    theirs = HeadArchitecture.of_tensors(tensors)
    keys = ("hidden_dim", "bottleneck_dim", "num_prototypes", "num_layers")
    own = {key: getattr(theirs, key) if node[key] is None else node[key] for key in keys}
    if own["num_prototypes"] != theirs.num_prototypes:
        raise UserError(
            f"{where}.num_prototypes: got {own['num_prototypes']}, but the teacher has {theirs.num_prototypes}, and "
            "student and teacher are compared prototype by prototype; expected null or that number"
        )
    return {"_target_": "dinotrain.models.head.Head", "_partial_": True, **own, "init_std": node.init_std}


def check_pair(config: DictConfig, teacher: Weights) -> None:
    """Refuse a student that this teacher can't teach.

    Raises:
        UserError: with the keys to change.
    """
    model, theirs = config.model, teacher.architecture
    if theirs.embed_dim < model.embed_dim:
        raise UserError(
            f"teacher.weights: the teacher has {theirs.embed_dim} channels, its student {model.embed_dim}; expected a "
            "teacher at least as wide as the student: a larger one, or a smaller model=..."
        )
    if theirs.channels != model.channels:
        raise UserError(f"model.channels: got {model.channels}, but the teacher sees {theirs.channels}")
    if config.method.masks is not None:
        raise UserError("method.masks: a distilled student sees all patches; expected null")
    size = teacher_size(config, teacher)
    grid, own = (size or config.crops.global_size) // theirs.patch_size, config.crops.global_size // model.patch_size
    if teacher_needed(config) == "heads" and grid != own:
        raise UserError(
            f"teacher.size: {size or config.crops.global_size} px are {grid}x{grid} patches of the teacher's "
            f"{theirs.patch_size} px, but the student has {own}x{own}; expected {own * theirs.patch_size} px, or null"
        )
    if teacher_needed(config) == "backbone" and config.crops.num_local:
        raise UserError(f"crops.num_local: got {config.crops.num_local}, but only global crops are matched; expected 0")


def teacher_size(config: DictConfig, teacher: Weights) -> int | None:
    """The side in px in which the teacher sees the global crops; None for their own.

    Its patch grid is the student's where its patches don't fit the crops or would be few, and where prototypes are
    compared.

    Raises:
        UserError: for a size that its patches don't fit.
    """
    patch, crop = teacher.architecture.patch_size, config.crops.global_size
    size = config.teacher.size
    if size is None:
        same_grid = crop // config.model.patch_size * patch
        # Patches twice as large on a side as the student's still tell it where things are.
        fits = teacher_needed(config) == "backbone" and crop % patch == 0 and patch <= 2 * config.model.patch_size
        size = crop if fits else same_grid
    elif size % patch:
        near = max(round(size / patch), 1) * patch
        raise UserError(
            f"teacher.size: {size} px is not a multiple of the teacher's patches of {patch} px; {near} would be"
        )
    return None if size == crop else size


def normalization(config: DictConfig, teacher: Weights) -> Normalization:
    """What the teacher's images are normalised with: as typed, as its source says, or as ImageNet's."""
    known = teacher.normalization or IMAGENET
    mean, std = (typed or own for typed, own in zip((config.teacher.mean, config.teacher.std), known))
    return list(mean), list(std)


def build_teacher(
    config: DictConfig,
    weights: Weights,
    *,
    mesh: DeviceMesh,
    precision: Precision,
    attention: str,
    device: torch.device,
) -> FrozenTeacher:
    """The networks, in the precision of the run and sharded, with their weights.

    Raises:
        UserError: if the tensors don't fit each other.
    """
    shapes = {name: HeadArchitecture.of_tensors(head).arguments() for name, head in weights.heads.items()}
    with torch.device("meta"):
        backbone = VisionTransformer(**weights.architecture.arguments())
        heads = {name: Head(**arguments) for name, arguments in shapes.items()}
        needs_heads = teacher_needed(config) == "heads"
        networks = Networks(backbone=backbone, **heads) if needs_heads else BackboneNetworks(backbone=backbone)
    select_attention(networks, attention)
    networks.requires_grad_(False).eval()
    parallelize(networks, mesh=mesh, precision=precision, reshard_after_forward=True, frozen=True)
    materialize(networks, device)
    for name, child in networks.named_children():
        tensors = weights.backbone if name == "backbone" else weights.heads[name]
        try:
            load_into(child, tensors, path=weights.path, what=f"the teacher's {name}")
        except UserError as error:
            raise UserError(f"teacher.weights: {error}") from error
    return FrozenTeacher(
        networks,
        size=teacher_size(config, weights),
        seen=(list(config.data.mean), list(config.data.std)),
        wanted=normalization(config, weights),
    )
