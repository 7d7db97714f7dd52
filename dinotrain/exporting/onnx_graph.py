"""An ONNX model with any number and size of images, and how onnxruntime runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.exporting.library import library
from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.exporting.torch_program import quietly, traced_program
from dinotrain.exporting.traced import TracedNetwork

OLDEST_OPSET = 18
"""Of those that torch writes without converting: older ones have not all operators of these networks."""

LARGEST_FILE = 1_900_000_000
"""Bytes of weights that still go into one file with the graph: ONNX files end at 2 GiB."""

INPUT = "images"


def write(subject: Subject, path: Path, *, opset: int) -> tuple[str, ...]:
    """Write the model, with its weights in a file beside it if it is large; returns how it is used.

    Raises:
        UserError: for an opset that can't express it, or a package that is missing.
    """
    _check(subject, opset)
    library("onnxscript", extra="onnx", what="format=onnx")
    names = TracedNetwork(subject.network, subject.head).names
    size = sum(value.numel() * value.element_size() for value in subject.weights.backbone.values())
    with quietly():
        program = torch.onnx.export(
            traced_program(subject),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=names,
            verbose=False,
        )
        assert program is not None
        _describe(program.model, subject)
        program.save(path, external_data=size > LARGEST_FILE)
    found = program.model.opset_imports.get("")
    if found != opset:
        raise UserError(f"opset: got {opset}, but only {found} can express this model; expected opset={found}")
    return (
        "import onnxruntime",
        f'session = onnxruntime.InferenceSession("{path.name}")',
        f'{", ".join(names)} = session.run(None, {{"{INPUT}": images}})',
    )


def load(path: Path) -> Callable[[Tensor], Outputs]:
    """The model in a file, as onnxruntime runs it on the CPU.

    Raises:
        UserError: if onnxruntime is not installed, or does not take it.
    """
    onnxruntime = library("onnxruntime", extra="onnx", what="format=onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common one of their own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"opset: onnxruntime {onnxruntime.__version__} does not take this model ({reason})") from error
    names = [each.name for each in session.get_outputs()]

    def run(images: Tensor) -> Outputs:
        found = session.run(None, {INPUT: images.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def _check(subject: Subject, opset: int) -> None:
    onnx = library("onnx", extra="onnx", what="format=onnx")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        why = "older ones can't express a vision transformer" if opset < OLDEST_OPSET else "this onnx knows no newer"
        raise UserError(f"opset: got {opset}, expected {OLDEST_OPSET} to {newest}: {why}")
    if subject.dtype == torch.bfloat16:
        raise UserError("dtype: got bf16, which onnxruntime can't compute in on a CPU; expected fp32 or fp16")


def _describe(model: Any, subject: Subject) -> None:
    """Say what goes in and what comes out; leave out the places in our code, which are of use to nobody."""
    batch, _, height, width = model.graph.inputs[0].shape
    names = {str(batch): "batch", str(height): "height", str(width): "width"}
    patches = model.graph.outputs[-1].shape[1]
    names[str(patches)] = "patches"
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None and not value.shape.frozen:
            for place, dim in enumerate(value.shape):
                value.shape[place] = names.get(str(dim), dim)
    for node in model.graph:
        node.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.update({key: json.dumps(value) for key, value in subject.words().items()})
    patch = subject.architecture.patch_size
    model.doc_string = f"{subject.architecture.brief()}; height and width of images are multiples of {patch}"
