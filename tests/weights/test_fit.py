"""Filling networks: plain and sharded, in any precision, all of it or none."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from spawn import run_processes
from stored_networks import assert_same
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.errors import UserError
from dinotrain.models.head import Head
from dinotrain.models.position import positions_for
from dinotrain.weights.fit import load_into

HEAD = {"in_dim": 16, "hidden_dim": 12, "bottleneck_dim": 8, "num_prototypes": 24}


def tensors(**changes: Any) -> dict[str, Tensor]:
    return dict(tiny.backbone(1, **changes).state_dict())


def head(**changes: Any) -> Head:
    return Head(**{**HEAD, **changes})


def refusal(module: nn.Module, stored: dict[str, Tensor], what: str = "backbone") -> str:
    """The one line that is said, with the network left as it was."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_into(module, stored, path="a.pth", what=what)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    text = str(error.value)
    assert text.startswith(f"a.pth: {what}")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_plain_network(dtype: torch.dtype) -> None:
    module, stored = tiny.backbone(0).to(dtype), tensors()
    assert load_into(module, stored, path="a.pth", what="backbone") == ()
    assert_same(module.state_dict(), {name: value.to(dtype) for name, value in stored.items()})
    assert all(p.requires_grad for p in module.parameters())


def test_stored_in_half_precision() -> None:
    module, stored = tiny.backbone(0), {name: value.half() for name, value in tensors().items()}
    load_into(module, stored, path="a.pth", what="backbone")
    assert_same(module.state_dict(), {name: value.float() for name, value in stored.items()})


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("size", [8, 24])
def test_positions_of_another_grid(registers: int, size: int) -> None:
    module, stored = tiny.backbone(num_registers=registers), tensors(num_registers=registers, image_size=size)
    side = size // 4
    notes = load_into(module, stored, path="a.pth", what="backbone")
    assert notes == (f"position embeddings resized from {side}x{side} to 4x4",)
    resized = positions_for(stored["pos_embed"], 4, 4, "size" if registers else "scale")
    assert_same(module.state_dict(), stored | {"pos_embed": resized})
    assert torch.equal(module.pos_embed[:, 0], stored["pos_embed"][:, 0])


def _filled(rank: int, precision: Any, size: int) -> dict[str, Tensor]:
    networks = tiny.networks(meta=True, num_registers=2)
    parallelize(networks, mesh=device_mesh("cpu", 2, None), precision=precision, reshard_after_forward=True)
    materialize(networks, torch.device("cpu"))
    for name, child in networks.named_children():
        stored = dict(tiny.networks(3, num_registers=2).get_submodule(name).state_dict())
        if name == "backbone":
            stored = tensors(num_registers=2, image_size=size)
        load_into(child, stored, path="a.pth", what=name)
    parameters = dict(networks.named_parameters())
    assert all(isinstance(p, DTensor) for p in parameters.values())
    with pytest.raises(UserError, match=r"model\.num_registers=0"):
        load_into(networks.backbone, tensors(), path="a.pth", what="backbone")
    return {name: p.full_tensor() for name, p in parameters.items() if isinstance(p, DTensor)}


def test_sharded_networks() -> None:
    expected = tiny.networks(3, num_registers=2)
    load_into(expected.backbone, tensors(num_registers=2, image_size=24), path="a.pth", what="backbone")
    for values in run_processes(2, _filled, "fp32", 24):
        assert_same(values, expected.state_dict())


CAUSES = [
    ({}, {"num_registers": 4}, "these are weights with 4 registers; set model.num_registers=4"),
    ({"num_registers": 4}, {}, "these are weights without registers; set model.num_registers=0"),
    ({}, {"layer_scale": None}, "these weights have no LayerScale; set model.layer_scale=null"),
    ({"layer_scale": None}, {}, "these weights have LayerScale; set model.layer_scale=1.0e-5"),
    ({}, {"patch_size": 8}, "the patch size of these weights is 8; set model.patch_size=8"),
    ({}, {"channels": 4}, "the image channels of these weights is 4; set model.channels=4"),
    ({}, {"ffn": "swiglu"}, "the feed-forward kind of these weights is swiglu; set model.ffn=swiglu"),
    ({}, {"ffn_ratio": 2.0}, "the feed-forward ratio of these weights is 2.0; set model.ffn_ratio=2.0"),
    ({}, {"depth": 3}, "weights of 3 blocks x 16 channels, the network has 2 x 16; set model.depth=3"),
    (
        {},
        {"embed_dim": 24},
        "of 2 blocks x 24 channels, the network has 2 x 16; set model.depth=2 model.embed_dim=24 (",
    ),
    ({}, {"embed_dim": 64}, "set model.depth=2 model.embed_dim=64 model.num_heads=1 ("),
]


@pytest.mark.parametrize(("here", "there", "words"), CAUSES)
def test_the_likely_cause_is_named(here: dict[str, Any], there: dict[str, Any], words: str) -> None:
    text = refusal(tiny.backbone(**here), tensors(**there))
    assert words in text
    assert text.count("set model.") == 1


def test_several_causes_and_a_size_with_a_name() -> None:
    there = {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 14, "image_size": 28, "num_registers": 4}
    text = refusal(tiny.backbone(), tensors(**there))
    assert "these are weights of 12 blocks x 384 channels (vits14), the network has 2 x 16" in text
    assert "set model.depth=12 model.embed_dim=384 model.num_heads=6" in text
    assert "set model.num_registers=4" in text
    assert "set model.patch_size=14" in text
    assert len(text) < 1200


def test_names_are_grouped() -> None:
    stored = tensors(depth=3)
    stored = {name: value for name, value in stored.items() if not name.startswith(("blocks.1.norm1.bias", "norm."))}
    stored["rope"] = torch.zeros(3)
    text = refusal(tiny.backbone(depth=3), stored)
    assert text.endswith("missing: blocks.*.norm1.bias, norm.weight, norm.bias; unexpected: rope")
    stored = {name.replace("attn", "attention"): value for name, value in tensors(depth=3).items()}
    assert "missing: blocks.*.attn.qkv.weight (x3), blocks.*.attn.qkv.bias (x3)" in refusal(
        tiny.backbone(depth=3), stored
    )
    text = refusal(tiny.backbone(), {})
    assert text.count(",") < 12
    assert "more" in text


def test_a_table_of_positions_that_is_no_grid() -> None:
    for shape in [(1, 13, 16), (1, 26, 8), (26, 16), (1, 1, 16), (2, 26, 16)]:
        text = refusal(tiny.backbone(), tensors() | {"pos_embed": torch.zeros(shape)})
        assert f"other shapes: pos_embed {list(shape)} instead of [1, 17, 16]" in text


def test_numbers_that_can_not_be_used() -> None:
    for value in (float("nan"), float("inf")):
        stored = tensors()
        stored["norm.bias"][3] = value
        assert "norm.bias holds numbers that are not finite" in refusal(tiny.backbone(), stored)
    stored = tensors() | {"norm.bias": torch.full((16,), 1e6)}
    load_into(tiny.backbone(), stored, path="a.pth", what="backbone")
    assert "too large for torch.float16; use bf16 or fp32" in refusal(tiny.backbone().half(), stored)
    stored = tensors() | {"norm.bias": torch.ones(16, dtype=torch.int64)}
    assert "norm.bias holds torch.int64 numbers, expected floating-point ones" in refusal(tiny.backbone(), stored)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_prototypes": 96}, "this head has 96 prototypes; set method.ibot_head.num_prototypes=96"),
        ({"hidden_dim": 20}, "channels in its hidden layers; set method.ibot_head.hidden_dim=20"),
        ({"bottleneck_dim": 6}, "channels in its bottleneck; set method.ibot_head.bottleneck_dim=6"),
        ({"num_layers": 2}, "this head has 2 layers; set method.ibot_head.num_layers=2"),
        ({"in_dim": 24}, "this is a head for 24 channels, the backbone has 16"),
    ],
)
def test_heads(changes: dict[str, int], words: str) -> None:
    stored = dict(head(**changes).state_dict())
    stored = {name: torch.rand_like(value) for name, value in stored.items()}
    for what in ("ibot_head", "the teacher's ibot_head"):
        assert words in refusal(head(), stored, what)
    module = head(**changes)
    load_into(module, stored, path="a.pth", what="ibot_head")
    assert_same(module.state_dict(), stored)
