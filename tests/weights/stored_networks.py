"""Tensors as other people's files name them, made from the golden numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import Golden, assert_near
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.models.head import Head
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import HeadArchitecture
from dinotrain.weights.fit import load_into
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights

TOLERANCE = 2e-5


def backbone_state(g: Golden, *, other_chunking: bool = False) -> dict[str, Tensor]:
    """A DINOv2 backbone with the names of its file, or those of the same network with its blocks listed otherwise."""
    values = [g.tensor(f"w/{key}") for key in g.texts("keys")]
    return dict(zip(g.texts("keys_other_chunking" if other_chunking else "keys"), values, strict=True))


def head_state(g: Golden, prefix: str) -> dict[str, Tensor]:
    return {key: g.tensor(f"{prefix}/w/{key}") for key in g.texts(f"{prefix}/keys")}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def refusal(path: Path, **options: Any) -> str:
    """The one line that is said of a path."""
    with pytest.raises(UserError) as error:
        read_weights(str(path), **options)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 400
    return text.removeprefix(f"{path}: ")


def build(weights: Weights) -> VisionTransformer:
    """The network that the weights are of."""
    model = VisionTransformer(**weights.architecture.arguments())
    load_into(model, weights.backbone, path=weights.path, what="backbone")
    return model.eval()


def build_head(weights: Weights, name: str) -> Head:
    head = Head(**HeadArchitecture.of_tensors(weights.heads[name]).arguments())
    load_into(head, weights.heads[name], path=weights.path, what=name)
    return head.eval()


@torch.no_grad()
def check_outputs(model: VisionTransformer, g: Golden) -> None:
    """Compare with what the original made of its images."""
    for index in range(len(g.texts("cases"))):
        case = f"case{index}"
        mask = g.tensor(f"{case}/masks") if f"{case}/masks" in g else None
        (tokens,) = model([g.tensor(f"{case}/x")], [mask])
        assert_near(tokens.cls, g.tensor(f"{case}/x_norm_clstoken"), TOLERANCE)
        assert_near(tokens.registers, g.tensor(f"{case}/x_norm_regtokens"), TOLERANCE)
        assert_near(tokens.patches, g.tensor(f"{case}/x_norm_patchtokens"), TOLERANCE)


def assert_same(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Bit-equal, in names, types and values."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        other = got[name]
        assert other.dtype == value.dtype, name
        assert torch.equal(other, value), name
