"""Which learning rate and weight decay each parameter gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from reference import Golden, flat_name, load
from tiny import networks
from torch import nn

from dinotrain.models.head import Head
from dinotrain.models.networks import Networks
from dinotrain.models.vit import VisionTransformer
from dinotrain.optim.parameters import parameter_groups, parameter_rule
from dinotrain.optim.recipe import OptimizationRecipe, StepValues, set_step

RUNS = load("param_groups").texts("runs")


@pytest.mark.parametrize("run", RUNS)
def test_golden_rules(golden: Callable[[str], Golden], run: str) -> None:
    g = golden("param_groups")
    for i, name in enumerate(g.texts(f"{run}/names")):
        rule = parameter_rule(
            flat_name(name),
            depth=g.size(f"{run}/cfg/depth"),
            layerwise_decay=g.number(f"{run}/cfg/decay"),
            patch_embed_lr_multiplier=g.number(f"{run}/cfg/pe"),
        )
        assert rule.lr_multiplier == pytest.approx(g.arrays[f"{run}/lr_multiplier"][i], rel=1e-12), name
        assert rule.weight_decay_multiplier == g.arrays[f"{run}/wd_multiplier"][i], name
        assert rule.last_layer == g.arrays[f"{run}/is_last_layer"][i], name


def golden_networks(g: Golden, run: str) -> Networks:
    """Networks of the shapes the run lists."""
    names = [flat_name(name) for name in g.texts(f"{run}/names")]
    texts = g.texts(f"{run}/shape")
    shapes = {name: tuple(int(n) for n in text.strip("()[], ").replace("x", ",").split(",") if n.strip())
              for name, text in zip(names, texts)}  # fmt: skip
    dim, channels, patch, _ = shapes["backbone.patch_embed.proj.weight"]
    side = round((shapes["backbone.pos_embed"][1] - 1) ** 0.5)
    swiglu = "backbone.blocks.0.mlp.w3.weight" in shapes
    hidden = 4 * dim if swiglu else shapes["backbone.blocks.0.mlp.fc1.weight"][0]
    backbone = VisionTransformer(
        image_size=side * patch,
        patch_size=patch,
        channels=channels,
        embed_dim=dim,
        depth=g.size(f"{run}/cfg/depth"),
        num_heads=1,
        ffn="swiglu" if swiglu else "mlp",
        ffn_ratio=hidden / dim,
        num_registers=g.size(f"{run}/cfg/reg"),
    )

    def head(name: str) -> Head:
        k, bottleneck = shapes[f"{name}.last_layer.weight_v"]
        return Head(
            in_dim=dim,
            hidden_dim=shapes[f"{name}.mlp.0.weight"][0],
            bottleneck_dim=bottleneck,
            num_prototypes=k,
            num_layers=sum(key.startswith(f"{name}.mlp.") and key.endswith("weight") for key in shapes),
        )

    ibot = head("ibot_head") if "ibot_head.last_layer.weight_v" in shapes else None
    model = Networks(backbone=backbone, dino_head=head("dino_head"), ibot_head=ibot)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == shapes
    return model


@pytest.mark.parametrize("run", RUNS)
def test_golden_probe(golden: Callable[[str], Golden], run: str) -> None:
    """What the optimizer's groups hold after a step's values were set."""
    g = golden("param_groups")
    model = golden_networks(g, run)
    recipe = OptimizationRecipe(
        steps=10,
        global_batch=4,
        eps=g.number(f"{run}/cfg/adamw_eps"),
        betas=tuple(g.arrays[f"{run}/cfg/adamw_betas"].tolist()),
        layerwise_decay=g.number(f"{run}/cfg/decay"),
        patch_embed_lr_multiplier=g.number(f"{run}/cfg/pe"),
    )
    optimizer = recipe.optimizer(model, g.size(f"{run}/cfg/depth"))
    lr, weight_decay, last_layer_lr = g.arrays[f"{run}/probe/inputs"].tolist()
    set_step(optimizer, StepValues(lr, weight_decay, 0.0, 0.0, last_layer_lr))
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    by_name = {name: groups[parameter] for name, parameter in model.named_parameters()}
    for i, name in enumerate(g.texts(f"{run}/names")):
        group = by_name[flat_name(name)]
        assert group["lr"] == pytest.approx(g.arrays[f"{run}/probe/lr"][i], rel=1e-9), name
        assert group["weight_decay"] == pytest.approx(g.arrays[f"{run}/probe/weight_decay"][i], rel=1e-9), name


@pytest.mark.parametrize("shared", [False, True])
def test_every_trainable_parameter_is_in_one_group(shared: bool) -> None:
    model = networks(shared=shared, num_registers=2)
    model.backbone.mask_token.requires_grad_(False)
    groups = parameter_groups(model, depth=2, layerwise_decay=0.9, patch_embed_lr_multiplier=0.2)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}


def test_adam_has_its_state_before_the_first_step() -> None:
    model = networks()
    optimizer = OptimizationRecipe(steps=10, global_batch=4).optimizer(model, 2)
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert (state["exp_avg"].shape, float(state["step"])) == (parameter.shape, 0.0)
    for parameter in model.parameters():
        parameter.grad = nn.functional.normalize(parameter.detach(), dim=-1)
    optimizer.step()
    assert all(float(optimizer.state[parameter]["step"]) == 1.0 for parameter in model.parameters())
