"""Small models to export, and the command that does it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import libraries
import torch

from dinotrain.export import main
from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import ClassifierDescription, ClassifierWeights, write_classifier
from dinotrain.weights.runs import write_backbone
from dinotrain.weights.weights import Weights

CLASSES = ("cat", "dog", "ä bird")

PLAIN = libraries.architecture()
REGISTERS = libraries.architecture(num_registers=4, ffn="swiglu", patch_size=8, image_size=32)
"""Like the released ViT-g with registers."""
BARE = libraries.architecture(layer_scale=False, patch_size=16, image_size=64)
"""Like those of DINO."""
BY_SIZE = libraries.architecture(position_resize="size", norm_eps=1e-4)

SIZES = ((2, 4, 4), (1, 7, 3), (3, 2, 5))
"""Images, and patches along their sides; the first are native."""


def weights_of(architecture: Architecture, dtype: torch.dtype = torch.float32) -> Weights:
    """Random ones."""
    state = libraries.random_network(architecture).to(dtype).state_dict()
    return Weights(path="some.pth", layout="test", architecture=architecture, backbone=state)


def subject_of(architecture: Architecture, *, blocks: int = 0, **changes: Any) -> Subject:
    """A backbone, or a classifier that looks at the last blocks."""
    weights = weights_of(architecture)
    classifier = classifier_of(weights, blocks, **changes) if blocks else None
    size = architecture.image_size
    return Subject(weights=weights, size=size, crop_fraction=0.875, classifier=classifier)


def classifier_of(weights: Weights, blocks: int, **changes: Any) -> ClassifierWeights:
    """With a random head of three classes."""
    generator = torch.Generator().manual_seed(1)
    width = (blocks + 1) * weights.architecture.embed_dim
    words: dict[str, Any] = {"classes": CLASSES, "labels": "single", "blocks": blocks, "crop_fraction": 0.875}
    words |= {"size": weights.architecture.image_size, "origin": {"data": "pets", "top1": 91.5}}
    return ClassifierWeights(
        backbone=weights,
        weight=torch.randn(len(CLASSES), width, generator=generator) / width**0.5,
        bias=torch.randn(len(CLASSES), generator=generator),
        description=ClassifierDescription(**(words | changes)),
    )


def stored(folder: Path, architecture: Architecture = PLAIN) -> Path:
    """A file with a random backbone."""
    path = folder / "some.safetensors"
    write_backbone(path, weights_of(architecture).backbone, architecture)
    return path


def stored_classifier(folder: Path, architecture: Architecture = PLAIN, blocks: int = 1, **changes: Any) -> Path:
    """A file with a random classifier."""
    path = folder / "classifier.safetensors"
    write_classifier(path, classifier_of(weights_of(architecture), blocks, **changes))
    return path


def noise(architecture: Architecture, batch: int, rows: int, columns: int) -> torch.Tensor:
    """Images of so many patches."""
    patch, generator = architecture.patch_size, torch.Generator().manual_seed(rows)
    return torch.randn(batch, architecture.channels, rows * patch, columns * patch, generator=generator)


def assert_same(found: Outputs, expected: Outputs, tolerance: float = 1e-5) -> None:
    """All that is expected is there, and no further away than so much of the largest value."""
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        far = (found[name].float() - value).abs().max() / value.abs().max()
        assert far <= tolerance, f"{name}: {far:.1e}"


def export(*words: str, status: int = 0) -> str:
    """What the command prints; with another status than 0, the one line of its error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = main(list(words))
    assert found == status, f"exit status {found}\n{out.getvalue()}\n{err.getvalue()}"
    assert "Traceback" not in err.getvalue()
    if not status:
        return out.getvalue()
    lines = err.getvalue().strip().splitlines()
    assert len(lines) == 1, err.getvalue()
    return lines[0]
