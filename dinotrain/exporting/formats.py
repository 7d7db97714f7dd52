"""The table of formats: how each is written, read back, and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from dinotrain.exporting import hub, hugging_face, onnx_graph, own_file, timm_state, torch_program
from dinotrain.exporting.comparison import TOLERANCES, compare
from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.exporting.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What is chosen for some formats.

    Args:
        chunks: lists that the blocks of a .pth are in; 0 for one.
        opset: of ONNX.
    """

    chunks: int = 0
    opset: int = 18


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Args:
        suffix: of its file; None for a folder.
        stem: of its file beside those of other formats, where {kind} is backbone or classifier.
        libraries: that read it.
        extra: that installs them.
        computes: whether it computes in the type of its weights; else it is read as float32.
        write: a subject to a file or folder; returns lines on how it is used.
        load: what was written, as the library that it is for runs it.
        differs: in what the library differs off the native resolution, whatever is written; None for in nothing.
        adapted: the subject as it is written.
    """

    suffix: str | None
    stem: str = "{kind}"
    libraries: tuple[str, ...] = ("torch",)
    extra: str | None = None
    computes: bool = False
    write: Callable[[Subject, Path, WriteOptions], tuple[str, ...]]
    load: Callable[[Subject, Path], Callable[[Tensor], Outputs]]
    differs: Callable[[Subject], str | None] = lambda subject: None
    adapted: Callable[[Subject], Subject] = lambda subject: subject

    def name(self, subject: Subject) -> str:
        """Of its file or folder, where none was given."""
        return self.stem.format(kind=subject.kind) + (self.suffix or "")

    def verdict(self, subject: Subject, path: Path, tolerance: float | None = None) -> Verdict:
        """Read what was written, and hold it against what it was written from.

        Args:
            tolerance: largest relative difference; None for what the type it computes in needs.
        """
        subject = self.adapted(subject)
        return Verdict(
            library=", ".join(f"{name} {version(name)}" for name in self.libraries),
            found=compare(subject, self.load(subject, path)),
            limit=tolerance or TOLERANCES[subject.dtype if self.computes else torch.float32],
            differs=self.differs(subject),
            size=subject.size,
        )


FORMATS = {
    "hf": Format(
        suffix=None,
        stem="hf",
        libraries=("transformers",),
        extra="hf",
        write=lambda subject, path, _: hugging_face.write(subject, path),
        load=hugging_face.load,
        differs=hugging_face.differs,
        adapted=hugging_face.at_own_size,
    ),
    "hub": Format(
        suffix=".pth",
        write=lambda subject, path, options: hub.write(subject, path, chunks=options.chunks),
        load=hub.load,
    ),
    "timm": Format(
        suffix=".safetensors",
        stem="{kind}_timm",
        libraries=("timm",),
        extra="timm",
        write=lambda subject, path, _: timm_state.write(subject, path),
        load=timm_state.load,
        differs=timm_state.differs,
    ),
    "onnx": Format(
        suffix=".onnx",
        libraries=("onnxruntime",),
        extra="onnx",
        computes=True,
        write=lambda subject, path, options: onnx_graph.write(subject, path, opset=options.opset),
        load=lambda _, path: onnx_graph.load(path),
    ),
    "torch": Format(
        suffix=".pt2",
        computes=True,
        write=lambda subject, path, _: torch_program.write(subject, path),
        load=lambda _, path: torch_program.load(path),
    ),
    "safetensors": Format(
        suffix=".safetensors",
        libraries=("safetensors",),
        write=lambda subject, path, _: own_file.write(subject, path),
        load=own_file.load,
    ),
}
