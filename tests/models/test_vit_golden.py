"""The backbone against the original's numbers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from reference import Golden, assert_near, flat_name, names
from torch import Tensor

from dinotrain.models.position import positions_for
from dinotrain.models.vit import VisionTransformer

FILES = names("vit_*")
TOLERANCE = 2e-5
FFN = {"mlp": "mlp", "swiglufused": "swiglu", "swiglu": "swiglu"}


def build(g: Golden) -> VisionTransformer:
    offset = g.number("cfg/interpolate_offset")
    model = VisionTransformer(
        image_size=g.size("cfg/img_size"),
        patch_size=g.size("cfg/patch_size"),
        embed_dim=g.size("cfg/embed_dim"),
        depth=g.size("cfg/depth"),
        num_heads=g.size("cfg/num_heads"),
        ffn=FFN[g.text("cfg/ffn_layer")],  # pyright: ignore
        ffn_ratio=g.number("cfg/mlp_ratio"),
        num_registers=g.size("cfg/num_register_tokens"),
        layer_scale=1.0 if g.flag("cfg/layerscale") else None,
        position_resize="scale" if offset else "size",
    )
    model.load_state_dict({flat_name(key): value for key, value in g.below("w/").items()})
    return model.eval()


def case_mask(g: Golden, case: str) -> Tensor | None:
    return g.tensor(f"{case}/masks") if f"{case}/masks" in g else None


def run(model: VisionTransformer, images: list[Tensor], masks: list[Tensor | None]):
    """Tokens of every group, and the packed rows before the final norm."""
    seen: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        return model(images, masks), seen[0]
    finally:
        hook.remove()


@pytest.mark.parametrize("name", FILES)
def test_outputs(golden: Callable[[str], Golden], name: str) -> None:
    g = golden(name)
    model = build(g)
    for index in range(len(g.texts("cases"))):
        case = f"case{index}"
        x, mask = g.tensor(f"{case}/x"), case_mask(g, case)
        with torch.no_grad():
            (tokens,), prenorm = run(model, [x], [mask])
        assert_near(tokens.cls, g.tensor(f"{case}/x_norm_clstoken"), TOLERANCE)
        assert_near(tokens.registers, g.tensor(f"{case}/x_norm_regtokens"), TOLERANCE)
        assert_near(tokens.patches, g.tensor(f"{case}/x_norm_patchtokens"), TOLERANCE)
        assert_near(prenorm, g.tensor(f"{case}/x_prenorm").flatten(0, 1), TOLERANCE)


@pytest.mark.parametrize("name", FILES)
def test_first_block_input_and_positions(golden: Callable[[str], Golden], name: str) -> None:
    g = golden(name)
    model = build(g)
    seen = 0
    for index in range(len(g.texts("cases"))):
        case = f"case{index}"
        x = g.tensor(f"{case}/x")
        if f"{case}/tokens_in" in g:
            assert_near(model.tokenize(x, case_mask(g, case)), g.tensor(f"{case}/tokens_in"), TOLERANCE)
            seen += 1
        if f"{case}/pos_embed_used" in g:
            grid = (x.shape[2] // model.patch_size, x.shape[3] // model.patch_size)
            used = positions_for(model.pos_embed, *grid, model.position_resize)
            assert_near(used, g.tensor(f"{case}/pos_embed_used"), TOLERANCE)
            seen += 1
    assert seen


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_intermediate_layers(golden: Callable[[str], Golden], name: str) -> None:
    g = golden(name)
    model = build(g)
    for index in range(len(g.texts("cases"))):
        case = f"case{index}"
        x = g.tensor(f"{case}/x")
        if f"{case}/il2/0/patch" in g:
            for j, tokens in enumerate(model.intermediate(x, [-2, -1])):
                expected = g.tensor(f"{case}/il2/{j}/patch")
                assert_near(tokens.patches.transpose(1, 2).reshape(expected.shape), expected, TOLERANCE)
                assert_near(tokens.cls, g.tensor(f"{case}/il2/{j}/cls"), TOLERANCE)
        for key in g.arrays:
            if found := re.fullmatch(rf"{case}/il_([\d_]+)_nonorm/(\d+)/patch", key):
                blocks = [int(block) for block in found[1].split("_")]
                tokens = model.intermediate(x, blocks, norm=False)[int(found[2])]
                assert_near(tokens.patches, g.tensor(key), TOLERANCE)


@pytest.mark.parametrize("name", [name for name in FILES if "chunks" not in name])
def test_crops_of_two_sizes_together(golden: Callable[[str], Golden], name: str) -> None:
    """The nested forward pass of training, and its gradients."""
    g = golden(name)
    if "nested/xa" not in g:
        pytest.skip("this file has no nested pass")
    model = build(g)
    a, b = g.tensor("nested/xa"), g.tensor("nested/xb")
    (first, second), prenorm = run(model, [a, b], [g.tensor("nested/masks_a"), None])
    expected = [g.tensor(f"nested/{part}_x_prenorm").flatten(0, 1) for part in "ab"]
    assert_near(prenorm, torch.cat(expected), TOLERANCE)
    assert_near(first.cls, g.tensor("nested/a_x_norm_clstoken"), TOLERANCE)
    assert_near(second.cls, g.tensor("nested/b_x_norm_clstoken"), TOLERANCE)
    value = (first.cls * g.tensor("grad/cot_a_cls")).sum() + (first.patches * g.tensor("grad/cot_a_patch")).sum()
    value = value + (second.cls * g.tensor("grad/cot_b_cls")).sum()
    assert_near(value, g.tensor("grad/value"), 1e-4, 1e-5)
    value.backward()
    grads = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in model.named_parameters()}
    order = [flat_name(key) for key in g.texts("grad/names")]
    assert set(order) == set(grads)
    assert_near(torch.stack([grads[key].norm() for key in order]), g.tensor("grad/l2"), 1e-4, 1e-4)
    scale = torch.stack([grads[key].abs().sum() for key in order])
    sums = torch.stack([grads[key].sum() for key in order])
    assert ((sums - g.tensor("grad/sum")).abs() <= 1e-5 * scale + 1e-4).all()
    for key, full in g.below("grad/full/").items():
        assert_near(grads[flat_name(key)], full, 1e-5 * max(1.0, float(full.abs().max())))


@pytest.mark.parametrize("name", FILES)
def test_names_map_one_to_one(golden: Callable[[str], Golden], name: str) -> None:
    """Chunked and plain names of the public checkpoints are the same parameters."""
    g = golden(name)
    own = list(build(g).state_dict())
    for key in ("keys", "keys_other_chunking"):
        assert sorted(map(flat_name, g.texts(key))) == sorted(own)
