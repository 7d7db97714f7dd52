"""State dicts for timm, loaded strictly by timm itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import libraries
import pytest
import torch
from exported import BARE, BY_SIZE, PLAIN, REGISTERS, SIZES, assert_same, noise, subject_of

from dinotrain.errors import UserError
from dinotrain.exporting.hub import RELEASED, released
from dinotrain.exporting.timm_state import differs, load, model_of, write
from dinotrain.weights.architecture import Architecture


@pytest.fixture(scope="module", autouse=True)
def timm() -> ModuleType:
    return libraries.timm()


@pytest.mark.parametrize(
    "architecture",
    [
        *(PLAIN, REGISTERS, BARE, BY_SIZE, dataclasses.replace(PLAIN, ffn_ratio=2.75)),
        dataclasses.replace(REGISTERS, layer_scale=False, num_registers=2, ffn_ratio=3.0),
        dataclasses.replace(PLAIN, channels=1, ffn="swiglu"),
    ],
    ids=str,
)
def test_features_are_the_same(architecture: Architecture, tmp_path: Path) -> None:
    subject, path = subject_of(architecture), tmp_path / "some.safetensors"
    write(subject, path)
    run = load(subject, path)
    assert (differs(subject) is None) == (architecture.position_resize == "size")
    for size in SIZES[: 1 if differs(subject) else None]:
        images = noise(architecture, *size)
        assert_same(run(images), subject.outputs(images))


def test_the_lines_it_prints_make_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject = subject_of(BY_SIZE)
    lines = write(subject, Path("some.safetensors"))
    found: dict[str, Any] = {}
    exec("\n".join(lines), found)
    images = noise(BY_SIZE, *SIZES[1])
    with torch.no_grad():
        tokens = found["model"].eval().forward_features(images)
    assert_same({"cls": tokens[:, 0]}, {"cls": subject.outputs(images)["cls"]})


@pytest.mark.parametrize("size", RELEASED)
@pytest.mark.parametrize("registers", [False, True])
def test_released_sizes_have_names_of_their_own(timm: ModuleType, size: str, registers: bool) -> None:
    architecture = released(size, registers)
    name, arguments = model_of(architecture)
    words = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}
    assert name == f"vit_{words[size]}_patch14_{'reg4_' if registers else ''}dinov2"
    assert set(arguments) == {"pretrained", "num_classes", "img_size", "dynamic_img_size"}
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    shapes = architecture.shapes()
    theirs = dict(model.named_parameters())
    assert theirs["blocks.0.attn.qkv.weight"].shape == shapes["blocks.0.attn.qkv.weight"]
    assert len(model.blocks) == architecture.depth


def test_classifiers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format=timm: its models have no head on CLS and mean patch; format=hub"):
        write(subject_of(PLAIN, blocks=1), tmp_path / "some.safetensors")
