"""What the method shares with the first DINO: its loss, center, schedules, networks and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reference import Golden, assert_near
from torch import Tensor

from dinotrain.losses.dino import dino_loss
from dinotrain.losses.targets import Center
from dinotrain.models.head import Head
from dinotrain.models.position import positions_for
from dinotrain.models.vit import VisionTransformer
from dinotrain.optim.schedules import Cosine, Warmup


@pytest.fixture
def g(golden: Callable[[str], Golden]) -> Golden:
    return golden("dino_v1")


def test_loss_and_center(g: Golden) -> None:
    """All pairs of different views; there the center moves right after the loss."""
    cfg = g.below("loss/cfg/")
    epochs, temperatures = g.arrays["loss/epochs_used"].tolist(), g.arrays["loss/teacher_temp_schedule_per_epoch"]
    center = Center(g.tensor("loss/0/teacher").shape[1], momentum=float(cfg.get("center_momentum", torch.tensor(0.9))))
    for i, epoch in enumerate(epochs):
        student = g.tensor(f"loss/{i}/student").requires_grad_()
        views = 2
        images = g.tensor(f"loss/{i}/teacher").shape[0] // views
        assert_near(center.center, g.tensor(f"loss/{i}/center_before")[0], 1e-6)
        targets = center(g.tensor(f"loss/{i}/teacher"), float(temperatures[epoch])).unflatten(0, (views, images))
        center.update()
        assert_near(center.center, g.tensor(f"loss/{i}/center_after")[0], 1e-6)
        by_view = student.unflatten(0, (-1, images))
        terms = dino_loss(by_view[:views], by_view[views:], targets, float(cfg["student_temp"]))
        value = terms.local + terms.global_
        assert_near(value, g.tensor(f"loss/{i}/value"), 1e-5, 1e-5)
        (gradient,) = torch.autograd.grad(value, student)
        expected = g.tensor(f"loss/{i}/grad_student")
        assert_near(gradient, expected, 1e-5 * float(expected.abs().max()), 1e-4)


def test_teacher_temperature_by_epoch(g: Golden) -> None:
    expected = g.arrays["loss/teacher_temp_schedule_per_epoch"]
    cfg = g.below("loss/cfg/")
    keys = ("warmup_teacher_temp", "teacher_temp", "warmup_teacher_temp_epochs")
    start, end, epochs = (float(cfg[key]) for key in keys)
    schedule = Warmup(start, end, int(epochs))
    assert [schedule(epoch) for epoch in range(len(expected))] == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("name", ["lr", "wd", "mom"])
def test_cosine(g: Golden, name: str) -> None:
    args = dict(zip(g.texts("cosine/args_order"), g.arrays[f"cosine/{name}/args"].tolist()))
    per_epoch = int(args["niter_per_ep"])
    schedule = Cosine(
        args["base_value"],
        args["final_value"],
        int(args["epochs"]) * per_epoch,
        warmup=int(args["warmup_epochs"]) * per_epoch,
        warmup_start=args["start_warmup_value"],
    )
    expected = g.arrays[f"cosine/{name}"].tolist()
    assert [schedule(step) for step in range(len(expected))] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def backbone(g: Golden) -> VisionTransformer:
    weights = g.below("vit/w/")
    dim, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    model = VisionTransformer(
        image_size=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        channels=channels,
        embed_dim=dim,
        depth=depth,
        num_heads=g.size("vit/cfg/num_heads"),
        ffn_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        layer_scale=None,
    )
    missing = model.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["mask_token"]
    assert not missing.unexpected_keys
    return model


def test_backbone(g: Golden) -> None:
    """Without LayerScale and mask token."""
    model = backbone(g).eval()
    for i in range(len(g.texts("vit/cases"))):
        x = g.tensor(f"vit/case{i}/x")
        with torch.no_grad():
            assert_near(model([x])[0].cls, g.tensor(f"vit/case{i}/cls"), 2e-5)
            for j, tokens in enumerate(model.intermediate(x, [-2, -1])):
                whole = torch.cat([tokens.cls[:, None], tokens.patches], dim=1)
                assert_near(whole, g.tensor(f"vit/case{i}/il2/{j}"), 2e-5)
            grid = (x.shape[2] // model.patch_size, x.shape[3] // model.patch_size)
            used = positions_for(model.pos_embed, *grid, model.position_resize)
            assert_near(used, g.tensor(f"vit/case{i}/pos_embed_used"), 1e-5)


def head(g: Golden) -> Head:
    weights = g.below("head/w/")
    k, bottleneck = weights["last_layer.weight_v"].shape
    hidden, in_dim = weights["mlp.0.weight"].shape
    layers = sum(name.startswith("mlp.") and name.endswith("weight") for name in weights)
    model = Head(in_dim=in_dim, hidden_dim=hidden, bottleneck_dim=bottleneck, num_prototypes=k, num_layers=layers)
    model.load_state_dict(weights)
    return model


def test_several_crop_sizes_and_gradients(g: Golden) -> None:
    model, projection = backbone(g), head(g)
    crops = [g.tensor("multicrop/globals"), g.tensor("multicrop/locals")]
    views, images = crops[0].shape[:2]
    tokens = model([crop.flatten(0, 1) for crop in crops])
    student = projection(torch.cat([group.cls for group in tokens]))
    assert_near(student, g.tensor("multicrop/student_out"), 2e-5)
    center = Center(student.shape[1])
    temperature = float(g.arrays["loss/teacher_temp_schedule_per_epoch"][g.size("multicrop/epoch")])
    targets = center(g.tensor("multicrop/teacher_out"), temperature).unflatten(0, (views, images))
    center.update()
    assert_near(center.center, g.tensor("multicrop/center_after")[0], 1e-6)
    by_view = student.unflatten(0, (-1, images))
    terms = dino_loss(by_view[:views], by_view[views:], targets, float(g.tensor("loss/cfg/student_temp")))
    loss = terms.local + terms.global_
    assert_near(loss, g.tensor("multicrop/loss"), 1e-5, 1e-5)
    loss.backward()
    own: dict[str, Tensor | None] = {f"backbone.{name}": p.grad for name, p in model.named_parameters()}
    own |= {f"head.{name}": p.grad for name, p in projection.named_parameters()}
    lengths = zip(g.texts("multicrop/param_names"), g.tensor("multicrop/grad_l2"), g.tensor("multicrop/grad_is_none"))
    for name, length, fixed in lengths:
        gradient = own[name.removeprefix("module.")]
        if not fixed:
            assert gradient is not None
            assert float(gradient.norm()) == pytest.approx(float(length), rel=1e-4, abs=1e-6), name
