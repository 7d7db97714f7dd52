"""Files of the original code: every layout gives the same networks, with the golden outputs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Golden, assert_near, flat_name, names
from stored_networks import (
    TOLERANCE,
    assert_same,
    backbone_state,
    build,
    build_head,
    check_outputs,
    head_state,
    prefixed,
)
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.models.head import Head
from dinotrain.models.init import initialize
from dinotrain.weights.architecture import HeadArchitecture
from dinotrain.weights.fit import load_into
from dinotrain.weights.official import from_official, to_official
from dinotrain.weights.read import read_weights

BACKBONES = names("vit_*")
WITH_REGISTERS = next(name for name in BACKBONES if "reg0" not in name)


def save(path: Path, tree: Any) -> str:
    torch.save(tree, path)
    return str(path)


def ours(g: Golden) -> dict[str, Tensor]:
    return {flat_name(name): value for name, value in g.below("w/").items()}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("other_chunking", [False, True])
def test_backbones(golden: Callable[[str], Golden], tmp_path: Path, name: str, other_chunking: bool) -> None:
    g = golden(name)
    path = save(tmp_path / "weights", backbone_state(g, other_chunking=other_chunking))
    weights = read_weights(path, num_heads=g.size("cfg/num_heads"))
    registers = g.size("cfg/num_register_tokens")
    assert weights.layout == "DINOv2 backbone" + (f" with {registers} registers" if registers else "")
    assert weights.path == path
    assert weights.notes == ()
    assert_same(weights.backbone, ours(g))
    check_outputs(build(weights), g)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_way_back(golden: Callable[[str], Golden], tmp_path: Path, name: str) -> None:
    g = golden(name)
    stored = backbone_state(g)
    weights = read_weights(save(tmp_path / "a.pth", stored), num_heads=g.size("cfg/num_heads"))
    assert_same(to_official(weights.backbone, g.size("cfg/block_chunks")), stored)
    assert_same(to_official(weights.backbone, g.size("other_block_chunks")), backbone_state(g, other_chunking=True))
    with pytest.raises(ValueError, match="chunks: got 99"):
        to_official(weights.backbone, 99)


def dino_v2_networks(g: Golden) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone and heads, by the names of a full checkpoint."""
    dim = g.size("cfg/embed_dim")
    dino = tiny_head(dim, num_layers=3)
    ibot = tiny_head(dim, num_layers=1)
    return backbone_state(g), {**prefixed("dino_head.", dino), **prefixed("ibot_head.", ibot)}


def tiny_head(in_dim: int, num_layers: int) -> dict[str, Tensor]:
    head = Head(in_dim=in_dim, hidden_dim=12, bottleneck_dim=8, num_prototypes=20, num_layers=num_layers)
    initialize(head, num_layers, head.initial)
    return dict(head.state_dict())


def parametrized(name: str) -> str:
    """As torch's newer weight norm names it."""
    g, v = "parametrizations.weight.original0", "parametrizations.weight.original1"
    return name.replace("weight_g", g).replace("weight_v", v)


def wrapped(name: str) -> str:
    return f"_orig_mod.module.{name.replace('backbone.', 'backbone._fsdp_wrapped_module.')}"


RENAMES: list[Callable[[str], str]] = [str, parametrized, wrapped]


@pytest.mark.parametrize("rename", RENAMES)
@pytest.mark.parametrize("nesting", ["teacher", "both", "flat"])
def test_training_checkpoints(
    golden: Callable[[str], Golden], tmp_path: Path, rename: Callable[[str], str], nesting: str
) -> None:
    g = golden(WITH_REGISTERS)
    backbone, heads = dino_v2_networks(g)
    networks = {rename(name): value for name, value in {**prefixed("backbone.", backbone), **heads}.items()}
    others = {name: value + 1 for name, value in networks.items()}
    rest = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}, "iteration": 7}
    flat = {**prefixed("teacher.", networks), **prefixed("student.", others), "dino_loss.center": torch.zeros(1, 8)}
    tree = {
        "teacher": {"teacher": networks},
        "both": {"student": others, "teacher": networks, **rest},
        "flat": {"model": flat, **rest},
    }[nesting]
    path = save(tmp_path / "checkpoint.pth", tree)
    weights = read_weights(path, num_heads=g.size("cfg/num_heads"))
    assert weights.layout == "training checkpoint of DINOv2, teacher"
    check_outputs(build(weights), g)
    assert set(weights.heads) == {"dino_head", "ibot_head"}
    for name in weights.heads:
        assert_same(weights.heads[name], {k.partition(".")[2]: v for k, v in heads.items() if k.startswith(name)})
    if nesting != "teacher":
        student = read_weights(path, part="student", num_heads=g.size("cfg/num_heads"))
        assert_same(student.backbone, {flat_name(name): value + 1 for name, value in backbone.items()})
        assert student.layout == "training checkpoint of DINOv2, student"
    with pytest.raises(UserError, match="no ema here: there is"):
        read_weights(path, part="ema")


@pytest.mark.parametrize("rename", RENAMES)
@torch.no_grad()
def test_head_outputs(golden: Callable[[str], Golden], rename: Callable[[str], str]) -> None:
    g = golden("dino_head")
    for prefix in g.texts("heads"):
        stored = prefixed("teacher.dino_head.", head_state(g, prefix))
        tensors = from_official({rename(name): value for name, value in stored.items()}).heads["dino_head"]
        assert_same(tensors, head_state(g, prefix))
        head = Head(**HeadArchitecture.of_tensors(tensors).arguments())
        load_into(head, tensors, path="a.pth", what="dino_head")
        assert_near(head(g.tensor(f"{prefix}/input")), g.tensor(f"{prefix}/output"), TOLERANCE)


def test_a_head_of_another_backbone(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden(WITH_REGISTERS)
    dim = g.size("cfg/embed_dim")
    networks = {**prefixed("backbone.", backbone_state(g)), **prefixed("dino_head.", tiny_head(dim + 4, 3))}
    path = save(tmp_path / "a.pth", {"teacher": networks})
    with pytest.raises(UserError, match=f"dino_head takes {dim + 4} channels, but its backbone gives {dim}"):
        read_weights(path, num_heads=g.size("cfg/num_heads"))


@pytest.mark.parametrize("name", names("steps_*"))
def test_networks_of_a_training(golden: Callable[[str], Golden], tmp_path: Path, name: str) -> None:
    """Also where patches have no head of their own."""
    g = golden(name)
    path = save(tmp_path / "a.pth", {"teacher": g.below("teacher0/"), "student": g.below("student0/")})
    weights = read_weights(path, num_heads=g.size("cfg/heads"))
    assert set(weights.heads) == ({"dino_head", "ibot_head"} if g.flag("cfg/sep") else {"dino_head"})
    assert weights.architecture.depth == g.size("cfg/depth")
    build(weights)
    assert build_head(weights, "dino_head").num_prototypes == g.size("cfg/K")


def v1_state(g: Golden, part: str) -> dict[str, Tensor]:
    return {key: g.tensor(f"{part}/w/{key}") for key in g.texts(f"{part}/keys")}


@torch.no_grad()
def check_v1_outputs(model: Any, g: Golden) -> None:
    for index in range(len(g.texts("vit/cases"))):
        (tokens,) = model([g.tensor(f"vit/case{index}/x")])
        assert_near(tokens.cls, g.tensor(f"vit/case{index}/cls"), TOLERANCE)


def test_dino_v1_backbone(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden("dino_v1")
    weights = read_weights(save(tmp_path / "a.pth", v1_state(g, "vit")), num_heads=g.size("vit/cfg/num_heads"))
    assert weights.layout == "DINO backbone"
    assert not weights.architecture.layer_scale
    assert weights.notes == ("mask token missing in the file: zeros",)
    assert torch.equal(weights.backbone["mask_token"], torch.zeros(1, g.size("vit/cfg/embed_dim")))
    check_v1_outputs(build(weights), g)


def test_dino_v1_training_checkpoint(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden("dino_v1")
    backbone, head = v1_state(g, "vit"), tiny_head(g.size("vit/cfg/embed_dim"), num_layers=3)
    student = prefixed("module.", {**prefixed("backbone.", backbone), **prefixed("head.", head)})
    tree = {
        "student": {name: value + 1 for name, value in student.items()},
        "teacher": {name.removeprefix("module."): value for name, value in student.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", patch_size=8, lr=0.1),
        "dino_loss": {"center": torch.zeros(1, 40)},
        "fp16_scaler": {"scale": 1.0},
    }
    path = save(tmp_path / "checkpoint.pth", tree)
    weights = read_weights(path, num_heads=g.size("vit/cfg/num_heads"))
    assert weights.layout == "training checkpoint of DINO, teacher"
    check_v1_outputs(build(weights), g)
    assert_same(weights.heads["dino_head"], head)
    other = read_weights(path, part="student", num_heads=g.size("vit/cfg/num_heads"))
    assert_same(other.heads["dino_head"], {name: value + 1 for name, value in head.items()})


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "_orig_mod."])
@pytest.mark.parametrize("container", [None, "model", "state_dict", "teacher", "student"])
def test_lone_backbones_in_any_wrapping(
    golden: Callable[[str], Golden], tmp_path: Path, prefix: str, container: str | None
) -> None:
    g = golden(BACKBONES[0])
    state = prefixed(prefix, backbone_state(g))
    path = save(tmp_path / "a.pth", {container: state, "epoch": 4} if container else state)
    assert_same(read_weights(path, num_heads=g.size("cfg/num_heads")).backbone, ours(g))


def test_a_linear_classifier_is_left_out_and_named(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden(BACKBONES[0])
    state = {**backbone_state(g), "head.weight": torch.zeros(10, g.size("cfg/embed_dim")), "head.bias": torch.zeros(10)}
    weights = read_weights(save(tmp_path / "a.pth", state), num_heads=g.size("cfg/num_heads"))
    assert weights.notes == ("linear classifier left out",)
    assert_same(weights.backbone, ours(g))


def test_nothing_is_read_in_part(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden(BACKBONES[0])
    heads = g.size("cfg/num_heads")

    def refused(state: dict[str, Any], *words: str) -> None:
        with pytest.raises(UserError) as error:
            read_weights(save(tmp_path / "a.pth", state), num_heads=heads)
        text = str(error.value)
        assert text.startswith(f"{tmp_path / 'a.pth'}: ")
        assert "\n" not in text
        assert all(word in text for word in words), text

    state = backbone_state(g)
    block = [name for name in state if name.endswith("attn.qkv.bias")]
    refused({k: v for k, v in state.items() if k not in block}, f"missing: blocks.*.attn.qkv.bias (x{len(block)})")
    refused({**state, "rope.periods": torch.zeros(3)}, "unexpected: rope.periods")
    refused({**state, "norm.weight": torch.zeros(3)}, "norm.weight [3] instead of")
    refused({k: v for k, v in state.items() if k != "pos_embed"}, "no tensor pos_embed")
    refused({"teacher": state, "more.weight": torch.zeros(3)}, "more.weight")
    refused({**state, "module.norm.weight": state["norm.weight"]}, "two tensors are both norm.weight")
    refused({**state, "backbone.norm.weight": state["norm.weight"]}, "two tensors are both backbone.norm.weight")
    head = {"dino_head.last_layer.weight": torch.zeros(4, 3), "dino_head.mlp.0.weight": torch.zeros(3, 3)}
    refused({"teacher": {**prefixed("backbone.", state), **head}}, "last_layer.weight_v")
    refused({"epoch": 3}, "holds no tensors by name")
    refused({"module": torch.zeros(3)}, "module is a tensor without a name of its own")
    refused({"model": torch.zeros(3)}, "not the weights of a network that is known here")
    refused({**state, "extra": [torch.zeros(3)]}, "extra is a list of tensors, expected tensors by name")
    refused({**state, "extra": {"more": ({"a": torch.zeros(3)},)}}, "extra.more is a tuple of tensors")
    for shape in ([], [4], [2, 4]):
        refused({**state, "register_tokens": torch.zeros(shape)}, f"register_tokens has shape {shape}, expected 3")
        refused({**state, "pos_embed": torch.zeros(shape)}, f"pos_embed has shape {shape}, expected 3 dimensions")
    refused({"weight": torch.zeros(3, 3), "bias": torch.zeros(3)}, "not the weights of a network that is known here")


def test_networks_are_not_mixed(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden(BACKBONES[0])
    state = backbone_state(g)
    other = {name: value + 1 for name, value in state.items()}
    bare = {name: value for name, value in state.items() if name != "norm.weight"}
    trees: list[tuple[dict[str, Any], str]] = [
        ({"ema": state, "model": other}, "tensors beside ema: model."),
        (
            {"teacher": prefixed("backbone.", state), "model": prefixed("backbone.", other)},
            "tensors beside teacher: model",
        ),
        ({"teacher": state, **other}, f"tensors beside teacher: {next(iter(other))}, "),
        ({"teacher": bare, "norm.weight": other["norm.weight"]}, "tensors beside teacher: norm.weight; expected one"),
        ({"model": bare, "norm.weight": other["norm.weight"]}, "tensors beside model: norm.weight; expected one"),
        ({"model": bare, "state_dict": {"norm.weight": other["norm.weight"]}}, "beside model: state_dict.norm.weight;"),
        (
            {"model": {"teacher": bare}, "teacher": {"norm.weight": other["norm.weight"]}},
            "beside teacher: model.teacher",
        ),
    ]
    for tree, words in trees:
        for part in (None, *(name for name in ("teacher", "ema") if name in tree)):
            with pytest.raises(UserError, match=re.escape(words)):
                read_weights(save(tmp_path / "a.pth", tree), part=part, num_heads=g.size("cfg/num_heads"))


def test_the_part_is_named_without_heads_too(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    g = golden(WITH_REGISTERS)
    state = backbone_state(g)
    other = {name: value + 1 for name, value in state.items()}
    path = save(tmp_path / "a.pth", {"model": {"student": state, "ema": other}, "optimizers": [{"m": torch.zeros(3)}]})
    for part, expected in (("ema", other), ("student", state)):
        weights = read_weights(path, part=part, num_heads=g.size("cfg/num_heads"))
        assert weights.layout.endswith(f" registers, {part}")
        assert_same(weights.backbone, {flat_name(name): value for name, value in expected.items()})


def test_no_such_part(golden: Callable[[str], Golden], tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", backbone_state(golden(BACKBONES[0])))
    with pytest.raises(UserError, match="no ema here: these are weights of one network alone"):
        read_weights(path, part="ema")
