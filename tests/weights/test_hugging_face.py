"""Reading weights of transformers' classes, against those classes with random values."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import libraries
import pytest
import torch
from libraries import assert_close, assert_equal, assert_same_tokens, images, tokens
from safetensors.torch import load_file
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.weights.hugging_face import from_hugging_face, to_hugging_face
from dinotrain.weights.read import read_weights

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 7}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2", {}),
    "dinov2_swiglu": ("Dinov2", {"use_swiglu_ffn": True}),
    "registers": ("Dinov2WithRegisters", {"num_register_tokens": 3}),
    "registers_swiglu": ("Dinov2WithRegisters", {"num_register_tokens": 4, "use_swiglu_ffn": True, "mlp_ratio": 3}),
    "no_registers": ("Dinov2WithRegisters", {"num_register_tokens": 0}),
    "vit": ("ViT", {"intermediate_size": 88}),
    "vit_eps": ("ViT", {"intermediate_size": 128, "layer_norm_eps": 1e-2}),
    "channels": ("Dinov2", {"num_channels": 5, "layer_norm_eps": 1e-3}),
}
CONFIG = {"model_type": "dinov2", **SIZES}


@pytest.fixture(scope="module")
def hf() -> ModuleType:
    return libraries.transformers()


def build(hf: ModuleType, case: str, suffix: str = "Model", **changes: Any) -> Any:
    """Their network of a case with random values."""
    family, options = CASES[case]
    model = getattr(hf, family + suffix)(getattr(hf, f"{family}Config")(**{**SIZES, **options, **changes}))
    libraries.randomize(model)
    return model.eval()


def saved(model: Any, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


@torch.no_grad()
def theirs(model: torch.nn.Module, x: Tensor, **options: Any) -> Tensor:
    return model(x, **options).last_hidden_state


def plain() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file without registers."""
    architecture = libraries.architecture()
    return to_hugging_face(libraries.random_network(architecture).state_dict(), architecture)


@pytest.mark.parametrize("names", ["file", "modules"])
@pytest.mark.parametrize("case", CASES)
def test_their_network_gives_the_same_tokens_here(hf: ModuleType, case: str, names: str, tmp_path: Path) -> None:
    model = build(hf, case)
    state, config = saved(model, tmp_path)
    if names == "modules":  # of transformers 5, without the names of the hub that save_pretrained writes
        state = model.state_dict()
    backbone, architecture = from_hugging_face(state, config)
    x = images(architecture.channels)
    assert_same_tokens(tokens(libraries.network(backbone, architecture), x), theirs(model, x))


def test_other_resolutions_agree_with_registers(hf: ModuleType, tmp_path: Path) -> None:
    # Without registers transformers resizes by size and without antialias. Released DINO and DINOv2 weights were
    # trained with sizes as scale factors (+0.1), which is what we do with them: other tokens off the native resolution.
    model = build(hf, "registers")
    backbone, architecture = from_hugging_face(*saved(model, tmp_path))
    assert architecture.position_resize == "size"
    for height, width in ((42, 35), (14, 21)):
        x = images(height=height, width=width)
        assert_same_tokens(tokens(libraries.network(backbone, architecture), x), theirs(model, x))


@pytest.mark.parametrize("case", ["dinov2", "registers", "vit"])
def test_masked_patches_agree(hf: ModuleType, case: str, tmp_path: Path) -> None:
    model = hf.ViTModel(build(hf, case).config, use_mask_token=True) if case == "vit" else build(hf, case)
    libraries.randomize(model.eval())
    backbone, architecture = from_hugging_face(*saved(model, tmp_path))
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    mine = tokens(libraries.network(backbone, architecture), images(), mask)
    assert_same_tokens(mine, theirs(model, images(), bool_masked_pos=mask))


@pytest.mark.parametrize("case", ["dinov2", "registers", "vit"])
@pytest.mark.parametrize("names", ["file", "modules"])
def test_a_classifier_around_the_backbone_is_left_out(hf: ModuleType, case: str, names: str, tmp_path: Path) -> None:
    model = build(hf, case, "ForImageClassification")
    state, config = saved(model, tmp_path / "whole")
    state = model.state_dict() if names == "modules" else state
    assert any(name.startswith("classifier") for name in state)
    inner = getattr(model, model.base_model_prefix)
    backbone, architecture = from_hugging_face(state, config)
    expected, expected_architecture = from_hugging_face(*saved(inner, tmp_path / "inner"))
    assert_equal(backbone, expected)
    assert architecture == expected_architecture


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("suffix", ["Model", "ForImageClassification"])
def test_the_one_door_for_weights_takes_their_folders(hf: ModuleType, kind: str, suffix: str, tmp_path: Path) -> None:
    model = build(hf, "vit", suffix)
    state, config = saved(model, tmp_path)
    if kind == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    weights = read_weights(str(tmp_path))
    assert weights.architecture == from_hugging_face(state, config)[1]
    inner = getattr(model, "vit", model)
    assert_same_tokens(
        tokens(libraries.network(weights.backbone, weights.architecture), images()), theirs(inner, images())
    )
    assert weights.notes == ("mask token missing in the file: zeros",)


@pytest.mark.parametrize("case", ["dinov2", "registers_swiglu"])
def test_their_backbone_classes_read_alike(hf: ModuleType, case: str, tmp_path: Path) -> None:
    model = build(hf, case, "Backbone", out_features=["stage2"])
    backbone, architecture = from_hugging_face(*saved(model, tmp_path))
    mine = tokens(libraries.network(backbone, architecture), images())
    with torch.no_grad():
        features = model(images()).feature_maps[0]
    assert_close(mine.patches, features.flatten(2).transpose(1, 2))


def test_unknown_names_are_passed_on_and_nothing_is_lost() -> None:
    state, config = plain()
    key = state.pop("encoder.layer.1.attention.attention.key.bias")
    state |= {"decoder.0.weight": torch.ones(1), "classifier.weight": torch.ones(1), "pooler.dense.bias": torch.ones(1)}
    backbone, _ = from_hugging_face(state, config)
    assert key.shape == (48,)
    assert "decoder.0.weight" in backbone
    assert "classifier.weight" not in backbone
    assert "pooler.dense.bias" not in backbone
    assert "blocks.1.attn.qkv.bias" not in backbone
    assert "encoder.layer.1.attention.attention.query.bias" in backbone
    assert "encoder.layer.1.attention.attention.value.bias" in backbone


def test_parts_that_do_not_fit_are_passed_on() -> None:
    state, config = plain()
    name = "encoder.layer.0.attention.attention.query.weight"
    backbone, _ = from_hugging_face({**state, name: torch.ones(7, 3)}, config)
    assert backbone[name].shape == (7, 3)
    assert "blocks.0.attn.qkv.weight" not in backbone


def test_two_tensors_of_one_meaning_are_refused() -> None:
    state, config = plain()
    twice = {**state, "layers.0.attention.o_proj.weight": torch.ones(48, 48)}
    with pytest.raises(UserError, match=r"two tensors in the file stand for blocks\.0\.attn\.proj\.weight"):
        from_hugging_face(twice, config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "deit"}, "model_type: got 'deit', expected one of dinov2, dinov2_with_registers, vit"),
        ({"model_type": None}, "model_type: got None"),
        ({"hidden_act": "gelu_new"}, "hidden_act: got 'gelu_new', expected 'gelu'"),
        ({"qkv_bias": False}, "qkv_bias: got false"),
        ({"image_size": [28, 42]}, r"image_size: got \[28, 42\], expected a square"),
        ({"patch_size": "7"}, "patch_size: got '7', expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: got 0"),
        ({"layer_norm_eps": 0}, "layer_norm_eps: got 0, expected a number above 0"),
        ({"mlp_ratio": None}, "mlp_ratio: got None"),
        ({"position_resize": "area"}, "position_resize: got 'area'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"^config.json: {words}") as caught:
        from_hugging_face({}, {**CONFIG, **changes})
    assert "\n" not in str(caught.value)


def test_what_a_config_leaves_out_is_as_in_their_class(hf: ModuleType) -> None:
    for case in ("dinov2", "registers", "vit"):
        config = getattr(hf, f"{CASES[case][0]}Config")()
        assert from_hugging_face({}, {"model_type": config.model_type})[1] == from_hugging_face({}, config.to_dict())[1]


def test_the_width_of_a_vit_survives_the_ratio_it_is_kept_as() -> None:
    config = {"model_type": "vit", "hidden_size": 1408, "num_attention_heads": 22, "intermediate_size": 207}
    assert int(1408 * (207 / 1408)) == 206
    _, architecture = from_hugging_face({}, config)
    assert architecture.shapes()["blocks.0.mlp.fc1.weight"] == (207, 1408)
