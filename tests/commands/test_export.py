"""The command: files that were checked, or none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import libraries
import pytest
import torch
import yaml
from exported import BARE, BY_SIZE, REGISTERS, export, stored, stored_classifier
from torch import Tensor

from dinotrain.exporting import hub
from dinotrain.exporting.formats import FORMATS
from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.weights.classifier_file import read_classifier
from dinotrain.weights.read import read_weights

ORIGIN = {"weights": "/home/me/vits14", "top1": 91.5}


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    libraries.transformers()
    libraries.timm()


def test_several_formats_at_once(tmp_path: Path) -> None:
    out = tmp_path / "some" / "where"
    printed = export(f"weights={stored(tmp_path, REGISTERS)}", f"out={out}", "format=[hf,hub,timm,safetensors]")
    assert sorted(file.name for file in out.iterdir()) == [
        *("backbone.pth", "backbone.safetensors", "backbone_timm.safetensors", "hf")
    ]
    assert printed.count("read back by") == 4
    assert "read back by transformers" in printed
    assert "because" not in printed
    assert "32x32 px, 1 x 56x24 px" in printed
    for file in out.iterdir():
        weights = read_weights(str(file), num_heads=4)
        assert weights.architecture.num_registers == 4


def test_the_readme_says_what_is_known(tmp_path: Path) -> None:
    export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'hf'}")
    text = (tmp_path / "hf" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert "AutoModel.from_pretrained" in text
    assert "ViT of 2 blocks x 48 channels, 4 heads, patch 7" in text
    assert "Dinov2Model resizes positions by size without antialias" in text
    assert "28 px, which it is meant for, is exact" in text
    assert "| class of transformers | Dinov2Model |" in text
    assert "Not on record." in text
    assert "Not measured, as far as the source of these weights says." in text
    assert str(tmp_path) not in text
    printed = export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'small'}", "size=21")
    assert "image_size=21 stores positions that are exact at 21 px" in printed


def test_a_classifier_as_a_folder(tmp_path: Path) -> None:
    path = stored_classifier(tmp_path, REGISTERS, labels="multi", thresholds=(0.5, 0.25, 0.75), origin=ORIGIN)
    printed = export(f"weights={path}", f"out={tmp_path / 'hf'}", "dtype=fp16")
    assert "3 classes, multi, on 1 block\n" in printed
    text = (tmp_path / "hf" / "README.md").read_text()
    assert "image-classification" in text
    assert "cat 0.5, dog 0.25, ä bird 0.75" in text
    assert "| top1 | 91.5 |" in text
    assert "| weights | vits14 |" in text
    assert "/home/me" not in text
    assert "float16" in text
    assert "outputs.logits.sigmoid()" in text


def test_a_classifier_as_files(tmp_path: Path) -> None:
    path = stored_classifier(tmp_path, BARE, blocks=2)
    printed = export(f"weights={tmp_path}", f"out={tmp_path / 'out'}", "format=[hub,safetensors]", "size=48")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *("classifier.pth", "classifier.safetensors", "classifier_head.pth")
    ]
    assert 'head_weights="classifier_head.pth", layers=2' in printed
    read = read_classifier(str(tmp_path / "out"))
    assert read.description.size == 48
    assert torch.equal(read.weight, read_classifier(str(path)).weight)
    line = export(f"weights={path}", f"out={tmp_path / 'other'}", "format=hub", "num_heads=3", status=1)
    assert "num_heads: got 3, but this classifier says of itself that it has 4" in line
    alone = export(f"weights={path}", f"out={tmp_path / 'alone'}", "format=hub", "head=false", "chunks=2")
    assert "backbone.pth" in alone
    assert "blocks.1.1.norm1.weight" in torch.load(tmp_path / "alone" / "backbone.pth")


def test_a_file_may_have_a_name(tmp_path: Path) -> None:
    export(f"weights={stored(tmp_path, BY_SIZE)}", f"out={tmp_path / 'mine.pth'}", "format=hub")
    assert (tmp_path / "mine.pth").is_file()
    export(f"weights={stored(tmp_path, BY_SIZE)}", f"out={tmp_path / 'v1.5'}", "format=hub")
    assert (tmp_path / "v1.5" / "backbone.pth").is_file()
    line = export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'mine.pt'}", "format=hub", status=1)
    assert line.endswith("expected a name that ends in .pth, or a folder for format=hub")
    line = export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'all.pth'}", "format=[hub,timm]", status=1)
    assert line.endswith("expected a folder for format=hub")


def test_files_that_exist_are_kept_unless_they_are_to_be_replaced(tmp_path: Path) -> None:
    words = (f"weights={stored(tmp_path)}", f"out={tmp_path / 'hf'}")
    export(*words)
    before = (tmp_path / "hf" / "model.safetensors").stat().st_ino
    line = export(*words, "check=false", status=1)
    assert "exists; expected another place, or force=true to replace it" in line
    assert (tmp_path / "hf" / "model.safetensors").stat().st_ino == before
    assert "not checked: check=false" in export(*words, "check=false", "force=true")
    assert (tmp_path / "hf" / "model.safetensors").stat().st_ino != before
    assert "Not checked." in (tmp_path / "hf" / "README.md").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hf", "some.safetensors"]


@pytest.mark.parametrize("wrong", ["far", "nan", "shape"])
def test_what_answers_otherwise_is_not_kept(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = hub.load

    def wrongly(subject: Subject, path: Path) -> Callable[[Tensor], Outputs]:
        run = load(subject, path)

        def other(images: Tensor) -> Outputs:
            found = run(images)
            cls = found["cls"]
            return found | {"cls": {"far": cls * 1.01, "nan": cls * float("nan"), "shape": cls[:, 1:]}[wrong]}

        return other

    monkeypatch.setitem(FORMATS, "hub", replace(FORMATS["hub"], load=wrongly))
    line = export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'a' / 'b'}", "format=hub", status=1)
    assert "format=hub: read back, cls of " in line
    assert "nothing was kept" in line
    assert not (tmp_path / "a").exists()


def test_a_missing_library_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    words = (f"weights={stored(tmp_path)}", f"out={tmp_path / 'out'}", "format=timm")
    line = export(*words, status=1)
    assert "format=timm: to check it" in line
    assert "pip install 'dinotrain[timm]'" in line
    assert not (tmp_path / "out").exists()
    assert "not checked" in export(*words, "check=false")


def test_a_library_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr("dinotrain.exporting.library.require", broken)
    line = export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'out'}", "format=timm", status=1)
    assert "the installed timm can't be used (operator torchvision::nms does not exist); mend it, or check" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("format=onxx",), "error: format: got 'onxx'; did you mean onnx?"),
        (("format=[]",), "error: format: got []"),
        (("format=hub", "chunks=9"), "error: chunks: got 9, expected 0 to 2"),
        (("format=hub", "chunks=-1"), "error: chunks: got -1, expected a whole number, at least 0"),
        (("opset=20",), "error: opset: got 20, but it is for format=onnx alone"),
        (("format=hub", "dtype=int8"), "error: dtype: got 'int8', expected one of fp32, fp16, bf16, null"),
        (("image_size=30",), "error: image_size: 30 px is not a multiple of the patches of 7 px; 28 is"),
        (("size=30",), "error: size: 30 px is not a multiple"),
        (("tolerance=0",), "error: tolerance: got 0, expected a number above 0, or null"),
        (("check=maybe",), "error: check: got 'maybe', expected true or false"),
        (("colour=red",), "error: colour: no such key"),
        (("part=ema",), "no ema here"),
        (("--now",), "error: --now: expected key=value"),
    ],
)
def test_mistakes_are_told_in_one_line(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    line = export(f"weights={stored(tmp_path)}", f"out={tmp_path / 'out'}", *words, status=1)
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_weights_and_out_are_asked_for(tmp_path: Path) -> None:
    assert "weights is missing" in export("out=here", status=1)
    assert "out is missing" in export(f"weights={stored(tmp_path)}", status=1)
    assert "no such file or folder" in export(f"weights={tmp_path / 'none'}", f"out={tmp_path / 'out'}", status=1)
    assert "format: hf" in export("weights=a", "out=b", "--config")


def test_a_run_brings_its_card(teacher: Path, tmp_path: Path) -> None:
    export(f"weights={teacher}", f"out={tmp_path / 'hf'}")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert "## Data" in text
    assert "drawings made by dinotrain itself" in text
    assert "## Training" in text
    assert "not measured" in text
    checkpoint = next((teacher / "checkpoints").iterdir())
    export(f"weights={checkpoint}", f"out={tmp_path / 'earlier'}")
    assert "Not on record." in (tmp_path / "earlier" / "README.md").read_text()
