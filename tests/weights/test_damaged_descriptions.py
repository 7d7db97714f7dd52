"""What files of other people, or damaged ones, say of themselves: one line whatever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors import safe_open
from safetensors.torch import save_file
from stored_networks import refusal
from torch import Tensor

from dinotrain.weights.architecture import Architecture
from dinotrain.weights.hugging_face import write_hugging_face
from dinotrain.weights.read import read_weights
from dinotrain.weights.runs import write_backbone

NORMALIZATION = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
DEEP = "[" * 100_000


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(tiny.backbone().state_dict())


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model_type", ["dinov2"], "model_type: got ['dinov2'], expected one of"),
        ("model_type", {}, "model_type: got {}, expected one of"),
        ("architectures", "Dinov2Model", "architectures: got 'Dinov2Model', expected a list of names"),
        ("architectures", [3], "architectures: got [3], expected a list of names"),
        ("architectures", {"a": 3}, "architectures: got {'a': 3}, expected a list of names"),
        ("hidden_size", 10**400, "hidden_size: got 1000"),
        ("layer_norm_eps", 10**400, "layer_norm_eps: got 1000"),
        ("num_hidden_layers", 10**9, "say of themselves that they have 1000000000 blocks, but"),
        ("hidden_size", 2**31 - 2, "no network can be as large"),
        ("position_resize", [1], "position_resize: got [1]"),
    ],
)
def test_config_of_hugging_face(tmp_path: Path, state: dict[str, Tensor], key: str, value: Any, words: str) -> None:
    write_hugging_face(tmp_path, state, Architecture.of_tensors(state, num_heads=2))
    edit(tmp_path / "config.json", **{key: value})
    assert words in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_mean": 0.5}, "image_mean: got 0.5, expected a list of one number per channel"),
        ({"image_mean": 0}, "image_mean: got 0, expected a list"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean: got ['a', 'b', 'c'], expected a list"),
        ({"image_mean": "0.1"}, "image_mean: got '0.1', expected a list"),
        ({"image_mean": [[0.1], 0.2, 0.3]}, "image_mean: got [[0.1], 0.2, 0.3], expected a list"),
        ({"image_mean": [0.1, 0.2, float("nan")]}, "image_mean: got [0.1, 0.2, nan], expected a list"),
        ({"image_mean": [0.1, 0.2, 10**400]}, "image_mean: got [0.1, 0.2, 1000"),
        ({"image_std": [0.1, 0.0, 0.3]}, "image_std: got [0.1, 0.0, 0.3], expected numbers above 0"),
        ({"image_std": [0.1, 0.2]}, "image_std: got 2 numbers, expected 3 as in image_mean"),
    ],
)
def test_preprocessor_of_hugging_face(
    tmp_path: Path, state: dict[str, Tensor], changes: dict[str, Any], words: str
) -> None:
    write_hugging_face(tmp_path, state, Architecture.of_tensors(state, num_heads=2), NORMALIZATION)
    assert read_weights(str(tmp_path)).normalization == NORMALIZATION
    edit(tmp_path / "preprocessor_config.json", **changes)
    assert refusal(tmp_path).startswith(f"preprocessor_config.json: {words}")
    for nothing in (None, []):
        edit(tmp_path / "preprocessor_config.json", **dict.fromkeys(changes, nothing))
        assert read_weights(str(tmp_path)).normalization is None


def test_config_of_timm(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": 0.5, "std": [1, 1, 1]}}))
    assert refusal(tmp_path, num_heads=2).startswith("config.json: pretrained_cfg.mean: got 0.5, expected a list")


def test_json_nested_without_end(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(DEEP)
    assert refusal(tmp_path).startswith("config.json can't be read")
    (tmp_path / "index.json").write_text('{"weight_map": ' + DEEP)
    assert refusal(tmp_path / "index.json").startswith("a JSON file, but not the index")


EXPORTS: list[tuple[dict[str, Any], str]] = [
    ({"depth": "2"}, "depth: got 2, expected a whole number"),
    ({"depth": None}, "depth: got None, expected a whole number"),
    ({"embed_dim": 10**400}, "embed_dim: got 1000"),
    ({"patch_size": 0}, "patch_size: got 0, expected a whole number from 1"),
    ({"ffn_ratio": [4.0]}, "ffn_ratio: got [4.0], expected a number above 0"),
    ({"ffn_ratio": float("inf")}, "ffn_ratio: got inf, expected a number above 0"),
    ({"ffn": {}}, "ffn: got {}, expected mlp or swiglu"),
    ({"embed_dim": 2**31 - 2}, "no network can be as large as a ViT of 2 blocks"),
    ({"depth": 10**9}, "say of themselves that they have 1000000000 blocks, but"),
]


@pytest.mark.parametrize(("changes", "words"), EXPORTS)
def test_the_description_of_an_export(
    tmp_path: Path, state: dict[str, Tensor], changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "a.safetensors"
    write_backbone(path, state, Architecture.of_tensors(state, num_heads=2))
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["architecture"])
    save_file(state, path, {"format": "dinotrain", "architecture": json.dumps(described | changes)})
    assert words in refusal(path)


@pytest.mark.parametrize("words", ["3", "[1, 2]", "[[0, 0, 0], [1, 1]]", "[[0], [0]]", '[["a"], ["b"]]', DEEP])
def test_the_normalization_of_an_export(tmp_path: Path, state: dict[str, Tensor], words: str) -> None:
    path = tmp_path / "a.safetensors"
    architecture = json.dumps(vars(Architecture.of_tensors(state, num_heads=2)))
    save_file(state, path, {"format": "dinotrain", "architecture": architecture, "normalization": words})
    assert refusal(path).startswith("its description is damaged, or from a newer version of this trainer (")


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": 1, "numbers": {"step": 3}},
        {"format": 1, "numbers": {"step": 3}, "files": None},
        {"format": 1, "numbers": {"step": 3}, "files": ["config.yaml"]},
        {"format": 1, "numbers": {"step": float("inf")}, "files": {}},
        {"format": 1, "numbers": [], "files": {}},
        [],
    ],
)
def test_the_manifest_of_a_checkpoint(tmp_path: Path, manifest: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    words = "manifest.json can't be read, or another version of this trainer wrote it"
    assert refusal(tmp_path) == words


def test_files_of_a_manifest_that_are_none(tmp_path: Path) -> None:
    manifest = {"format": 1, "numbers": {"step": 3}, "files": {"config.yaml": 3}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(tmp_path).startswith("config.yaml is missing, or changed since it was written")
