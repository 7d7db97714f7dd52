"""Folders for transformers, loaded by transformers itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import libraries
import pytest
import torch
import torch.nn.functional as F
from exported import BARE, BY_SIZE, CLASSES, PLAIN, REGISTERS, SIZES, assert_same, noise, subject_of
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.exporting.hugging_face import at_own_size, differs, load, write
from dinotrain.exporting.subject import Subject
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.read import read_weights


@pytest.fixture(scope="module", autouse=True)
def hf() -> ModuleType:
    return libraries.transformers()


@torch.no_grad()
def theirs(model: Any, images: Tensor, registers: int = 0) -> dict[str, Tensor]:
    hidden = model(images).last_hidden_state
    first = 1 + registers
    return {"cls": hidden[:, 0], "registers": hidden[:, 1:first], "patches": hidden[:, first:]}


@pytest.mark.parametrize(
    "architecture", [REGISTERS, BY_SIZE, dataclasses.replace(BARE, position_resize="size")], ids=str
)
def test_features_are_the_same_at_all_resolutions(hf: ModuleType, architecture: Architecture, tmp_path: Path) -> None:
    subject = subject_of(architecture)
    assert differs(subject) is None
    write(subject, tmp_path)
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == "Dinov2WithRegistersModel"
    for size in SIZES:
        images = noise(architecture, *size)
        assert_same(theirs(model, images, architecture.num_registers), subject.outputs(images))


@pytest.mark.parametrize(("architecture", "name"), [(PLAIN, "Dinov2Model"), (BARE, "ViTModel")])
def test_networks_that_resize_by_scale_are_the_same_at_the_stored_resolution(
    hf: ModuleType, architecture: Architecture, name: str, tmp_path: Path
) -> None:
    # transformers resizes positions to the size, without antialias: a rule that no released network was trained with.
    subject = subject_of(architecture)
    assert differs(subject) == (
        f"{name} resizes positions by size without antialias, this network by scale factor with an offset of 0.1"
    )
    write(subject, tmp_path)
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == name
    native = noise(architecture, 2, 4, 4)
    assert_same(theirs(model, native), subject.outputs(native))
    run, other = load(subject, tmp_path), noise(architecture, 1, 7, 7)
    difference = (run(other)["cls"] - subject.outputs(other)["cls"]).abs().max()
    assert 1e-4 < difference < 1
    # With positions resized as theirs are, ours are the same there, too: that is all that differs.
    assert_same(run(other), _resized_as_theirs(subject, 7).outputs(other))


def _resized_as_theirs(subject: Subject, grid: int) -> Subject:
    table = subject.weights.backbone["pos_embed"]
    own = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(own, size=(grid, grid), mode="bicubic").flatten(2).transpose(1, 2)
    other = subject.for_images_of(grid * subject.architecture.patch_size)
    backbone = {**other.weights.backbone, "pos_embed": torch.cat([table[:, :1], resized], dim=1)}
    return dataclasses.replace(other, weights=dataclasses.replace(other.weights, backbone=backbone))


@pytest.mark.parametrize("architecture", [PLAIN, BARE])
def test_a_table_stored_for_another_size_is_exact_there(architecture: Architecture, tmp_path: Path) -> None:
    subject = subject_of(architecture)
    size = architecture.patch_size * 6
    write(subject.for_images_of(size), tmp_path)
    images = noise(architecture, 2, 6, 6)
    assert_same(load(subject, tmp_path)(images), subject.outputs(images))
    assert read_weights(str(tmp_path)).architecture.image_size == size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_as_it_is(hf: ModuleType, dtype: torch.dtype, tmp_path: Path) -> None:
    subject = subject_of(REGISTERS).in_dtype(dtype)
    write(subject, tmp_path)
    assert {p.dtype for p in hf.AutoModel.from_pretrained(tmp_path, dtype="auto").parameters()} == {dtype}
    images = noise(REGISTERS, *SIZES[1])
    assert_same(load(subject, tmp_path)(images), subject.outputs(images))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (PLAIN, "Dinov2ForImageClassification"),
        (BARE, "Dinov2ForImageClassification"),  # with gains of one: ViTForImageClassification looks at CLS alone
        (REGISTERS, "Dinov2WithRegistersForImageClassification"),
    ],
)
def test_a_classifier_answers_the_same(hf: ModuleType, architecture: Architecture, name: str, tmp_path: Path) -> None:
    size = architecture.patch_size * 5
    subject = dataclasses.replace(subject_of(architecture, blocks=1, size=size), size=size)
    write(subject, tmp_path)
    model = hf.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == name
    images = noise(architecture, 3, 5, 5)  # not the resolution of the network's own table
    with torch.no_grad():
        assert_same({"logits": model(images).logits}, {"logits": subject.outputs(images)["logits"]})
    assert [model.config.id2label[number] for number in range(3)] == list(CLASSES)
    assert model.config.label2id["ä bird"] == 2
    assert model.config.problem_type == "single_label_classification"
    assert hf.AutoImageProcessor.from_pretrained(tmp_path).crop_size["height"] == size
    assert_same(load(at_own_size(subject), tmp_path)(images), subject.outputs(images))


def test_classes_that_do_not_exclude_each_other(tmp_path: Path) -> None:
    write(subject_of(REGISTERS, blocks=1, labels="multi"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_images_are_prepared_as_the_model_is_meant_for(hf: ModuleType, tmp_path: Path) -> None:
    subject = dataclasses.replace(subject_of(REGISTERS), size=24, crop_fraction=0.75)
    write(subject, tmp_path)
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path)
    assert processor.size["shortest_edge"] == 32
    assert (processor.crop_size["height"], processor.crop_size["width"]) == (24, 24)
    grey = subject_of(dataclasses.replace(PLAIN, channels=1))
    write(grey, tmp_path / "..")
    assert not (tmp_path / ".." / "preprocessor_config.json").exists()


@pytest.mark.parametrize(
    ("architecture", "blocks", "words"),
    [
        (PLAIN, 2, "the head takes CLS tokens of 2 blocks, Dinov2ForImageClassification that of the last one"),
        (dataclasses.replace(BARE, ffn_ratio=2.75), 1, "a ViTModel has no head on CLS and mean patch"),
        (dataclasses.replace(PLAIN, ffn_ratio=2.75), 1, r"ffn_ratio: got 2\.75, expected a whole number: Dinov2Model"),
    ],
)
def test_what_no_class_of_theirs_has_is_refused(
    architecture: Architecture, blocks: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"^format=hf: {words}") as caught:
        write(subject_of(architecture, blocks=blocks), tmp_path)
    assert "\n" not in str(caught.value)
    if "head" in words:
        assert "format=hub, onnx, torch or safetensors keeps it whole, and head=false" in str(caught.value)


@pytest.mark.parametrize("architecture", [PLAIN, REGISTERS, BARE, BY_SIZE])
def test_what_was_written_is_read_back_here(architecture: Architecture, tmp_path: Path) -> None:
    subject = subject_of(architecture)
    write(subject, tmp_path)
    read = read_weights(str(tmp_path))
    assert dataclasses.replace(read.architecture, layer_scale=architecture.layer_scale) == architecture
    again = dataclasses.replace(subject, weights=read)
    images = noise(architecture, *SIZES[1])
    assert_same(again.outputs(images), subject.outputs(images), 1e-6)


def test_a_file_that_theirs_does_not_take_is_told(tmp_path: Path) -> None:
    subject = subject_of(PLAIN)
    write(subject, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"transformers does not take encoder\.layer\.2|transformers does not take"):
        load(subject, tmp_path)
