"""The first steps of training as the original took them: networks, batches and recipe of a golden file."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from reference import Golden, flat_name
from torch import Tensor

from dinotrain.data.batch import Batch
from dinotrain.methods.self_distillation import SelfDistillation
from dinotrain.models.head import Head
from dinotrain.models.networks import Networks
from dinotrain.models.vit import VisionTransformer
from dinotrain.optim.ema import MovingAverage
from dinotrain.optim.recipe import OptimizationRecipe, StepValues
from dinotrain.training.state import TrainState

FFN = {"mlp": "mlp", "swiglufused": "swiglu", "swiglu": "swiglu"}
TARGETS = {"sinkhorn_knopp": "sinkhorn", "centering": "centering"}


def build_networks(g: Golden, *, meta: bool = False) -> Networks:
    dim, layers = g.size("cfg/embed"), g.size("cfg_fixed/head_nlayers")

    def head(suffix: str) -> Head:
        return Head(
            in_dim=dim,
            hidden_dim=g.size(f"cfg/hid{suffix}"),
            bottleneck_dim=g.size(f"cfg/bott{suffix}"),
            num_prototypes=g.size(f"cfg/K{suffix}"),
            num_layers=layers,
        )

    with torch.device("meta" if meta else "cpu"):
        backbone = VisionTransformer(
            image_size=g.size("cfg/gsize"),
            patch_size=g.size("cfg/patch"),
            embed_dim=dim,
            depth=g.size("cfg/depth"),
            num_heads=g.size("cfg/heads"),
            ffn=FFN[g.text("cfg/ffn")],  # pyright: ignore
            ffn_ratio=g.number("cfg_fixed/mlp_ratio"),
            num_registers=g.size("cfg/reg"),
            drop_path=g.number("cfg_fixed/drop_path"),
            position_resize="scale" if g.number("cfg_fixed/interpolate_offset") else "size",
        )
        ibot = head("2") if g.flag("cfg/sep") else None
        return Networks(backbone=backbone, dino_head=head(""), ibot_head=ibot)


def weights(g: Golden, prefix: str) -> dict[str, Tensor]:
    return {flat_name(name): value for name, value in g.below(f"{prefix}/").items()}


def build_recipe(g: Golden) -> OptimizationRecipe:
    epoch = g.size("cfg/epoch_len")
    return OptimizationRecipe(
        steps=g.size("cfg/epochs") * epoch,
        global_batch=g.size("cfg/B") * g.size("cfg/world_size"),
        base_lr=g.number("cfg/base_lr"),
        min_lr=g.number("cfg_fixed/min_lr"),
        warmup=g.size("cfg/warmup_epochs") * epoch,
        weight_decay=g.number("cfg_fixed/weight_decay_start"),
        weight_decay_end=g.number("cfg_fixed/weight_decay_end"),
        betas=(g.number("cfg_fixed/adam_beta1"), g.number("cfg_fixed/adam_beta2")),
        eps=g.number("cfg_fixed/adam_eps"),
        clip_grad=g.number("cfg/clip"),
        layerwise_decay=g.number("cfg/decay"),
        patch_embed_lr_multiplier=g.number("cfg_fixed/patch_embed_lr_mult"),
        freeze_last_layer=g.size("cfg/freeze_epochs") * epoch,
        momentum=g.number("cfg/momentum"),
        momentum_end=g.number("cfg_fixed/final_momentum"),
        teacher_temperature_start=g.number("cfg/tt0"),
        teacher_temperature=g.number("cfg/tt1"),
        teacher_temperature_warmup=g.size("cfg/tt_epochs") * epoch,
    )


def build_method(g: Golden) -> SelfDistillation:
    k = g.size("cfg/K")
    return SelfDistillation(
        num_prototypes=(k, g.size("cfg/K2") if g.flag("cfg/sep") else k),
        targets=TARGETS[g.text("cfg/centering")],  # pyright: ignore
        student_temperature=g.number("cfg_fixed/student_temp"),
        dino_weight=g.number("cfg/w_dino"),
        ibot_weight=g.number("cfg/w_ibot"),
        koleo_weight=g.number("cfg/koleo"),
        sinkhorn_iterations=g.size("cfg_fixed/sinkhorn_iterations"),
        center_momentum=g.number("cfg_fixed/center_momentum"),
    )


def build_state(g: Golden, student: Networks, teacher: Networks) -> TrainState:
    return TrainState(
        student=student.train(),
        ema=teacher.eval().requires_grad_(False),
        method=build_method(g),
        optimizer=build_recipe(g).optimizer(student, g.size("cfg/depth")),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        average=MovingAverage(teacher, student),
        seed=0,
    )


def batch(g: Golden, step: int) -> Batch:
    images, prefix = g.size("cfg/B"), f"s{step}/in/"
    local = g.tensor(f"{prefix}collated_local_crops")
    return Batch(
        global_crops=g.tensor(f"{prefix}collated_global_crops").float().unflatten(0, (-1, images)),
        local_crops=local.float().unflatten(0, (g.size("cfg/nloc"), images)),
        masks=g.tensor(f"{prefix}collated_masks").unflatten(0, (-1, images)),
        mask_indices=g.tensor(f"{prefix}mask_indices_list"),
        mask_weights=g.tensor(f"{prefix}masks_weight"),
        names=tuple(str(i) for i in range(images)),
    )


def steps(g: Golden) -> Iterator[tuple[int, Batch, StepValues]]:
    """Index, batch and schedule values of every step."""
    values = build_recipe(g).schedules()
    for step in range(g.size("cfg/nsteps")):
        yield step, batch(g, step), values(g.size("cfg/start_iter") + step)


def without_key_bias(name: str, value: Tensor) -> Tensor:
    """The query and value thirds: the key bias has no gradient but rounding noise, which Adam makes large."""
    if not name.endswith("attn.qkv.bias"):
        return value
    query, _, rest = value.chunk(3)
    return torch.cat([query, rest])
