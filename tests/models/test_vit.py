"""The backbone: packing, modes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from reference import assert_near
from tiny import backbone
from torch import Tensor

from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.init import initialize
from dinotrain.models.vit import VisionTransformer


def crops() -> tuple[list[Tensor], list[Tensor | None]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(b, 3, h, w, generator=generator) for b, h, w in [(3, 16, 16), (5, 8, 8), (2, 8, 12)]]
    mask = torch.rand(3, 16, generator=generator) < 0.4
    return images, [mask, None, torch.ones(2, 6, dtype=torch.bool)]


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 3])
def test_a_pack_equals_its_parts(ffn: str, registers: int) -> None:
    model = backbone(ffn=ffn, num_registers=registers).eval()
    images, masks = crops()
    for together, image, mask in zip(model(images, masks), images, masks):
        (alone,) = model([image], [mask])
        for got, expected in zip(together, alone):
            assert_near(got, expected, 1e-5)


def test_shapes_of_tokens() -> None:
    images, _ = crops()
    for tokens, image in zip(backbone(num_registers=2)(images), images):
        patches = image.shape[2] * image.shape[3] // 16
        assert tokens.cls.shape == (len(image), 16)
        assert tokens.registers.shape == (len(image), 2, 16)
        assert tokens.patches.shape == (len(image), patches, 16)


def test_evaluation_is_deterministic_and_training_draws() -> None:
    model = backbone(drop_path=0.5)
    (image, *_), _ = crops()
    model.eval()
    assert torch.equal(model([image])[0].cls, model([image])[0].cls)
    model.train()
    torch.manual_seed(0)
    first = model([image])[0].cls
    assert not torch.equal(first, model([image])[0].cls)
    torch.manual_seed(0)
    assert torch.equal(first, model([image])[0].cls)


def test_a_masked_patch_is_not_seen() -> None:
    model = backbone().eval()
    (image, *_), _ = crops()
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[:, 5] = True
    changed = image.clone()
    changed[:, :, 4:8, 4:8] += 1  # patch 5 of a grid of 4 x 4
    assert torch.equal(model([image], [mask])[0].patches, model([changed], [mask])[0].patches)
    assert not torch.allclose(model([image])[0].patches, model([changed])[0].patches)


def test_intermediate_counts_from_both_ends_and_keeps_the_order() -> None:
    model = backbone(depth=3).eval()
    (image, *_), _ = crops()
    last, first = model.intermediate(image, [-1, 0])
    assert torch.equal(last.cls, model([image])[0].cls)
    assert torch.equal(first.cls, model.intermediate(image, [-3])[0].cls)


def test_intermediate_refuses_blocks_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"blocks: got \[0, 3\], expected indices into 3 blocks"):
        backbone(depth=3).intermediate(torch.zeros(1, 3, 8, 8), [0, 3])


def test_a_single_channel() -> None:
    model = backbone(channels=1).eval()
    assert model([torch.randn(2, 1, 8, 8)])[0].cls.shape == (2, 16)


def test_initial_values() -> None:
    model = VisionTransformer(
        image_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=2, num_registers=2, layer_scale=0.5
    )
    initialize(model, 3, model.initial)
    values = dict(model.named_parameters())
    assert (values["mask_token"] == 0).all()
    assert (values["blocks.1.ls2.gamma"] == 0.5).all()
    assert (values["blocks.0.attn.qkv.bias"] == 0).all()
    assert (values["norm.weight"] == 1).all()
    for name in ("pos_embed", "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight"):
        assert float(values[name].detach().std()) == pytest.approx(0.02, rel=0.1)
    for name in ("cls_token", "register_tokens"):
        assert float(values[name].detach().std()) == pytest.approx(1e-6, rel=0.5)
    bound = 1 / (3 * 16) ** 0.5
    patches = values["patch_embed.proj.weight"].detach()
    assert 0.95 * bound < float(patches.abs().max()) <= bound
    assert not torch.equal(values["blocks.0.attn.qkv.weight"], values["blocks.1.attn.qkv.weight"])


def test_initial_values_follow_the_seed() -> None:
    one, same, other = backbone(seed=1), backbone(seed=1), backbone(seed=2)
    assert torch.equal(one.pos_embed, same.pos_embed)
    assert not torch.equal(one.pos_embed, other.pos_embed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 30}, r"image_size: got 30, expected"),
        ({"image_size": 2}, r"image_size: got 2, expected"),
        ({"patch_size": 0}, r"image_size: got 16, expected a multiple of model.patch_size 0"),
        ({"num_heads": 3}, r"num_heads: got 3, expected a divisor"),
        ({"num_heads": 0}, r"num_heads: got 0, expected"),
        ({"embed_dim": 0}, r"embed_dim: got 0, expected"),
        ({"depth": 0}, r"depth: got 0, expected"),
        ({"num_registers": -1}, r"num_registers: got -1, expected"),
        ({"ffn_ratio": 0.0}, r"ffn_ratio: got 0.0, expected"),
        ({"ffn": "moe"}, r"ffn: got moe, expected one of mlp, swiglu"),
        ({"drop_path": 1.0}, r"drop_path: got 1.0, expected"),
        ({"drop_path": -0.1}, r"drop_path: got -0.1, expected"),
    ],
)
def test_wrong_sizes_in_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        backbone(**arguments)
    assert "\n" not in str(error.value)


def test_wrong_attention_backend() -> None:
    with pytest.raises(ValueError, match=r"attention: got 'flash', expected one of sdpa, xformers"):
        select_attention(backbone(), "flash")
    assert available_backends(torch.device("cpu"), torch.float32, 64) == ("sdpa",)


def test_an_image_that_is_not_whole_patches() -> None:
    with pytest.raises(ValueError, match=r"18x16 px.*patch size 4"):
        backbone()([torch.zeros(1, 3, 18, 16)])
