"""Writing folders that transformers loads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import libraries
import numpy as np
import pytest
import torch
from libraries import assert_close, assert_equal, assert_same_tokens, images, tokens
from safetensors.torch import load_file

from dinotrain.errors import UserError
from dinotrain.evaluation.features import Preparation
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.hugging_face import from_hugging_face, to_hugging_face, write_hugging_face
from dinotrain.weights.read import read_weights

PLAIN = libraries.architecture()
REGISTERS = libraries.architecture(num_registers=4, ffn="swiglu")
BARE = libraries.architecture(layer_scale=False, ffn_ratio=2.75, norm_eps=1e-5)


@pytest.fixture(scope="module")
def hf() -> ModuleType:
    return libraries.transformers()


@pytest.mark.parametrize(
    "architecture",
    [
        PLAIN,
        REGISTERS,
        BARE,
        dataclasses.replace(REGISTERS, layer_scale=False),
        dataclasses.replace(PLAIN, ffn="swiglu", ffn_ratio=3.0, position_resize="size", norm_eps=1e-4),
    ],
)
def test_a_written_folder_loads_without_code_of_ours(
    hf: ModuleType, architecture: Architecture, tmp_path: Path
) -> None:
    model = libraries.random_network(architecture)
    if architecture == BARE:  # ViTModel takes no mask token unless it is built to
        model.mask_token.data.zero_()
    write_hugging_face(tmp_path, model.state_dict(), architecture)
    other, report = hf.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    pooler = {"pooler.dense.weight", "pooler.dense.bias"} if architecture == BARE else set()
    assert set(report["missing_keys"]) == pooler
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    assert_same_tokens(tokens(model, images()), other.eval()(images()).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "architecture", [PLAIN, REGISTERS, BARE, dataclasses.replace(PLAIN, channels=1, position_resize="size")]
)
def test_there_and_back_is_bit_equal(architecture: Architecture, dtype: torch.dtype, tmp_path: Path) -> None:
    backbone = libraries.random_network(architecture).to(dtype).state_dict()
    back, same = from_hugging_face(*to_hugging_face(backbone, architecture))
    assert same == architecture
    assert_equal(back, backbone)
    normalization = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    write_hugging_face(tmp_path, backbone, architecture, normalization)
    weights = read_weights(str(tmp_path))
    assert weights.architecture == architecture
    assert weights.normalization == (normalization if architecture.channels == 3 else None)
    assert_equal(weights.backbone, backbone)
    assert_equal(load_file(tmp_path / "model.safetensors"), to_hugging_face(backbone, architecture)[0])


def test_a_network_without_layer_scale_comes_back_with_gains_of_one() -> None:
    architecture = dataclasses.replace(REGISTERS, layer_scale=False)
    backbone = libraries.random_network(architecture).state_dict()
    back, same = from_hugging_face(*to_hugging_face(backbone, architecture))
    assert same == REGISTERS
    gains = {name: torch.ones(48) for name in back if name.endswith("gamma")}
    assert len(gains) == 4
    assert_equal(back, {**backbone, **gains})


def test_a_vit_keeps_a_mask_token_that_was_learned() -> None:
    backbone = libraries.random_network(BARE).state_dict()
    assert to_hugging_face(backbone, BARE)[0]["embeddings.mask_token"].shape == (1, 1, 48)
    zeros = {**backbone, "mask_token": torch.zeros(1, 48)}
    assert "embeddings.mask_token" not in to_hugging_face(zeros, BARE)[0]


def test_the_processor_prepares_images_as_the_evaluation_does(hf: ModuleType, tmp_path: Path) -> None:
    normalization = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    write_hugging_face(tmp_path, libraries.random_network(PLAIN).state_dict(), PLAIN, normalization)
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)  # short side 28 / 0.875: not resized
    mine = Preparation(size=28, crop_fraction=0.875, mean=normalization[0], std=normalization[1])
    expected = mine.normalize(mine.pixels(image).unsqueeze(0))
    got = processor(image, return_tensors="pt")["pixel_values"]
    assert_close(torch.as_tensor(got), expected)
    assert processor.size["shortest_edge"] == 32
    assert processor.resample == 3  # bicubic


def test_without_a_mean_it_is_that_of_imagenet_and_only_for_rgb(tmp_path: Path) -> None:
    write_hugging_face(tmp_path / "rgb", libraries.random_network(PLAIN).state_dict(), PLAIN)
    written = json.loads((tmp_path / "rgb" / "preprocessor_config.json").read_text())
    assert written["image_mean"] == [0.485, 0.456, 0.406]
    grey = dataclasses.replace(PLAIN, channels=1)
    write_hugging_face(tmp_path / "grey", libraries.random_network(grey).state_dict(), grey)
    assert not (tmp_path / "grey" / "preprocessor_config.json").exists()


def test_a_ratio_that_their_class_does_not_take_is_refused() -> None:
    architecture = dataclasses.replace(PLAIN, ffn_ratio=2.5)
    with pytest.raises(UserError, match=r"ffn_ratio: got 2\.5, expected a whole number: Dinov2Model"):
        to_hugging_face(libraries.random_network(architecture).state_dict(), architecture)
