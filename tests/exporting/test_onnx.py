"""ONNX models, run by onnxruntime at several sizes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from exported import PLAIN, REGISTERS, SIZES, assert_same, noise, subject_of

from dinotrain.errors import UserError
from dinotrain.exporting import onnx_graph
from dinotrain.exporting.onnx_graph import load, write
from dinotrain.exporting.subject import Subject

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ONE_PATCH = (2, 1, 1)


def held(subject: Subject, path: Path, tolerance: float = 1e-5) -> None:
    run = load(path)
    for size in (*SIZES, ONE_PATCH):
        images = noise(subject.architecture, *size)
        expected = subject.outputs(images)
        found = run(images)
        assert set(found) == set(expected)
        assert_same(found, expected, tolerance)


def test_a_classifier_is_the_same_at_all_sizes_and_numbers_of_images(tmp_path: Path) -> None:
    subject, path = subject_of(PLAIN, blocks=2), tmp_path / "some.onnx"
    how = write(subject, path, opset=18)
    held(subject, path)
    assert "logits, cls, patches = session.run" in how[-1]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [each.version for each in model.opset_import] == [18]
    sizes = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 3, "height", "width"]
    words = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert words["classes"] == ["cat", "dog", "ä bird"]
    assert words["patch_size"] == 7
    with pytest.raises(Exception, match="cannot be reshaped"):  # rather than leave out what is left over
        load(path)(torch.zeros(1, 3, 23, 28))
    # No place on the machine that wrote it.
    assert str(Path(onnx_graph.__file__).parent.parent).encode() not in path.read_bytes()


def test_half_precision_with_registers_and_weights_in_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "LARGEST_FILE", 1000)
    subject, path = subject_of(REGISTERS).in_dtype(torch.float16), tmp_path / "some.onnx"
    write(subject, path, opset=20)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["some.onnx", "some.onnx.data"]
    held(subject, path, 1e-2)
    weights = {each.data_type for each in onnx.load(path).graph.initializer if len(each.dims) == 2}
    assert onnx.TensorProto.FLOAT16 in weights
    with pytest.raises(AssertionError, match="cls"):
        held(subject, path, 1e-5)


def test_the_attention_of_new_opsets(tmp_path: Path) -> None:
    subject, path = subject_of(dataclasses.replace(PLAIN, depth=1)), tmp_path / "some.onnx"
    write(subject, path, opset=23)
    assert "Attention" in {node.op_type for node in onnx.load(path).graph.node}
    held(subject, path)


@pytest.mark.parametrize(("opset", "words"), [(17, "older ones can't express"), (999, "this onnx knows no newer")])
def test_an_opset_that_cannot_express_it_is_refused(opset: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^opset: got {opset}, expected 18 to \d+: {words}"):
        write(subject_of(PLAIN), tmp_path / "some.onnx", opset=opset)


def test_what_onnxruntime_cannot_compute_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dtype: got bf16"):
        write(subject_of(PLAIN).in_dtype(torch.bfloat16), tmp_path / "some.onnx", opset=18)


def test_a_model_that_onnxruntime_does_not_take_is_told(tmp_path: Path) -> None:
    (tmp_path / "some.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"^opset: onnxruntime [\d.]+ does not take this model") as caught:
        load(tmp_path / "some.onnx")
    assert "\n" not in str(caught.value)
