"""Networks as torch.hub gives them out of a checkout."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.hub
from exported import (
    BY_SIZE,
    CLASSES,
    PLAIN,
    REGISTERS,
    SIZES,
    assert_same,
    classifier_of,
    noise,
    stored,
    subject_of,
    weights_of,
)
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.exporting.hub import RELEASED, released
from dinotrain.exporting.hub import write as write_hub
from dinotrain.weights.classifier_file import write_classifier

CHECKOUT = Path(__file__).parent.parent
NAMES = [f"dinov2_{size}{registers}" for size in RELEASED for registers in ("", "_reg")]


def load(name: str, **options: Any) -> Any:
    return torch.hub.load(str(CHECKOUT), name, source="local", **options)


def small() -> dict[str, Tensor]:
    """Tensors of a ViT-S/14 with a small table of positions."""
    shapes = dataclasses.replace(released("vits14", False), image_size=28).shapes()
    return {name: torch.randn(shape, generator=torch.Generator().manual_seed(0)) for name, shape in shapes.items()}


def test_the_entries_are_those_of_the_released_networks_and_one_for_any_sizes() -> None:
    spec = importlib.util.spec_from_file_location("hubconf", CHECKOUT / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # As torch.hub.list looks for them.
    entries = {name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")}
    expected = {"dinov2", *NAMES}
    assert entries == expected | {f"{name}_lc" for name in expected}
    assert all(importlib.util.find_spec(name) for name in module.dependencies)


def test_a_random_network_answers_as_the_released_ones_do() -> None:
    torch.manual_seed(0)
    model = load("dinov2_vits14_reg")
    assert model.cls_token.std() > 0
    assert model.pos_embed.shape == (1, 1370, 384)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    images = torch.randn(2, 3, 28, 42)
    masks = torch.zeros(2, 6, dtype=torch.bool)
    masks[0, 3] = True
    with torch.no_grad():
        found = model.forward_features(images)
        assert torch.equal(model(images), found["x_norm_clstoken"])
        assert model(images, is_training=True).keys() == found.keys()
        hidden = model.forward_features(images, masks)
    assert found["x_norm_clstoken"].shape == (2, 384)
    assert found["x_norm_regtokens"].shape == (2, 4, 384)
    assert found["x_norm_patchtokens"].shape == (2, 6, 384)
    assert found["x_prenorm"].shape == (2, 11, 384)
    assert found["masks"] is None
    assert hidden["masks"] is masks
    assert not torch.allclose(hidden["x_norm_clstoken"][0], found["x_norm_clstoken"][0], rtol=0, atol=1e-7)
    assert torch.allclose(hidden["x_norm_clstoken"][1], found["x_norm_clstoken"][1], atol=1e-5)


@torch.no_grad()
def test_layers_come_in_the_forms_that_the_released_ones_have(tmp_path: Path) -> None:
    path = stored(tmp_path, REGISTERS)
    model = load("dinov2", weights=str(path))
    images = noise(REGISTERS, 2, 3, 5)
    expected = subject_of(REGISTERS).outputs(images)
    whole = model.forward_features(images)
    assert_same({"cls": whole["x_norm_clstoken"], "patches": whole["x_norm_patchtokens"]}, _some(expected))
    assert torch.allclose(model.norm(whole["x_prenorm"])[:, 0], whole["x_norm_clstoken"])
    (last,) = model.get_intermediate_layers(images)
    assert torch.allclose(last, expected["patches"], atol=1e-5)
    (first, _), (patches, cls) = model.get_intermediate_layers(images, 2, reshape=True, return_class_token=True)
    assert first.shape == patches.shape == (2, 48, 3, 5)
    assert torch.allclose(patches.flatten(2).transpose(1, 2), last)
    assert torch.allclose(cls, expected["cls"], atol=1e-5)
    (chosen,) = model.get_intermediate_layers(images, [0], reshape=True)
    assert torch.equal(chosen, first)
    given = model.get_intermediate_layers(images, [1, 0])
    assert all(torch.equal(one, other) for one, other in zip(given, model.get_intermediate_layers(images, [0, 1])))
    with pytest.raises(ValueError, match="n: got"):
        model.get_intermediate_layers(images, [-1])
    (raw,) = model.get_intermediate_layers(images, norm=False)
    assert torch.allclose(raw, whole["x_prenorm"][:, 5:], atol=1e-5)


def _some(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: outputs[name] for name in ("cls", "patches")}


def test_a_file_of_tensors_alone(tmp_path: Path) -> None:
    state = small()
    torch.save(state, tmp_path / "small.pth")
    model = load("dinov2_vits14", weights=str(tmp_path / "small.pth"))
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    larger = load("dinov2_vits14", weights=str(tmp_path / "small.pth"), image_size=42)
    assert larger.pos_embed.shape == (1, 10, 384)


@pytest.mark.parametrize("architecture", [PLAIN, REGISTERS, BY_SIZE])
def test_what_export_writes_and_the_line_it_prints(
    architecture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    subject = subject_of(architecture, blocks=2)
    lines = write_hub(subject, Path("some.pth"), chunks=0)
    found: dict[str, Any] = {}
    exec("\n".join(lines[:-1]).replace("CHECKOUT", str(CHECKOUT)), found)
    for size in SIZES:
        images = noise(architecture, *size)
        with torch.no_grad():
            assert_same({"logits": found["model"](images)}, {"logits": subject.outputs(images)["logits"]})


@torch.no_grad()
def test_a_classifier_of_this_trainer_and_heads_as_the_released_ones(tmp_path: Path) -> None:
    weights = weights_of(dataclasses.replace(REGISTERS, depth=5))
    images = noise(REGISTERS, 2, 3, 4)
    write_classifier(tmp_path / "classifier.safetensors", classifier_of(weights, 4))
    whole = load("dinov2_lc", weights=str(tmp_path))
    assert whole.layers == 4
    assert whole(images).shape == (2, len(CLASSES))
    torch.save(whole.backbone.state_dict(), tmp_path / "backbone.pth")
    torch.save({"weight": whole.linear_head.weight, "bias": whole.linear_head.bias}, tmp_path / "head.pth")
    parts = {"weights": str(tmp_path / "backbone.pth"), "head_weights": str(tmp_path / "head.pth"), "num_heads": 4}
    assert torch.equal(load("dinov2_lc", layers=4, **parts)(images), whole(images))
    tokens = whole.backbone.get_intermediate_layers(images, 4, return_class_token=True)
    features = torch.cat([*(cls for _, cls in tokens), tokens[-1][0].mean(1)], dim=1)
    assert torch.allclose(whole(images), whole.linear_head(features))
    assert load("dinov2_lc", weights=parts["weights"], num_heads=4, layers=1, num_classes=7)(images).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "dinov2_vits14",
            {"weights": "some.safetensors"},
            r"some\.safetensors: a ViT of 2 blocks x 48 channels, 4 heads, patch 7; dinov2_vits14 is a ViT of 12 "
            "blocks x 384 channels, 6 heads, patch 14; expected such weights, or the entry dinov2",
        ),
        ("dinov2_vits14_reg", {"weights": "small.pth"}, "or the entry dinov2_vits14$"),
        ("dinov2_vitb14", {"weights": "none.pth"}, r"none\.pth: no such file"),
        ("dinov2", {}, "dinov2: expected weights=PATH"),
        ("dinov2_lc", {"weights": "some.safetensors", "head_weights": "none.pth"}, r"head_weights: none\.pth: no such"),
        ("dinov2_lc", {"weights": "some.safetensors", "head_weights": "small.pth"}, "expected the tensors weight"),
        ("dinov2_lc", {"weights": "some.safetensors", "layers": 3}, "layers: got 3, expected 1 to 2"),
        ("dinov2_lc", {"weights": "some.safetensors", "head_weights": "wide.pth"}, "a head on 100 channels"),
        ("dinov2_lc", {"weights": "classifier.safetensors", "layers": 2}, "a head on 96 channels, expected 144"),
        (
            "dinov2_lc",
            {"weights": "classifier.safetensors", "head_weights": "wide.pth"},
            "is a classifier with a head of its own",
        ),
        (
            "dinov2_lc",
            {"weights": "classifier.safetensors", "num_classes": 5},
            "num_classes: got 5, but the head has 3",
        ),
        ("dinov2_vits14", {"image_size": 30}, "image_size: got 30, expected a multiple"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    name: str, options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path)
    torch.save(small(), "small.pth")
    torch.save({"weight": torch.zeros(3, 100), "bias": torch.zeros(3)}, "wide.pth")
    write_classifier("classifier.safetensors", classifier_of(weights_of(PLAIN), 1))
    with pytest.raises(UserError, match=words) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)


def test_nothing_is_downloaded() -> None:
    with pytest.raises(ValueError, match="pretrained: got True, but nothing is downloaded here; expected weights=PATH"):
        load("dinov2_vits14", pretrained=True)
