"""transformers, timm and torchmetrics, which some tests compare with; and networks with values that matter."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinotrain.models.vit import Tokens, VisionTransformer
from dinotrain.weights.architecture import Architecture


def transformers() -> ModuleType:
    """The package; a test that asks for it is skipped where it is not installed."""
    _prepare_torchvision()
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def timm() -> ModuleType:
    """The package; a test that asks for it is skipped where it is not installed."""
    _prepare_torchvision()
    return pytest.importorskip("timm")


def torchmetrics(part: str) -> ModuleType:
    """A module of the package; a test that asks for it is skipped where it is not installed."""
    _prepare_torchvision()
    pytest.importorskip("torchmetrics")
    return importlib.import_module(f"torchmetrics.{part}")


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Values with which every tensor matters, for any library's ViT."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            # matrices that keep the size of what goes through, so that rounding does not grow
            std = p[0].numel() ** -0.5 if p.dim() > 1 and name.endswith("weight") else 0.3
            p.normal_(0.0, std, generator=generator)
            if p.dim() == 1 and not name.endswith("bias"):  # gains of norms and LayerScale
                p.add_(1.0)


def architecture(**changes: Any) -> Architecture:
    """A small network without registers, 48 wide, on a 4x4 grid."""
    fields: dict[str, Any] = {
        "image_size": 28,
        "patch_size": 7,
        "channels": 3,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 4,
        "ffn": "mlp",
        "ffn_ratio": 4.0,
        "num_registers": 0,
        "layer_scale": True,
        "position_resize": "size" if changes.get("num_registers") else "scale",
    }
    return Architecture(**{**fields, **changes})


def network(state: Mapping[str, Tensor], architecture: Architecture) -> VisionTransformer:
    """Ours with these tensors, all that it has but the mask token, which not every library keeps."""
    model = VisionTransformer(**architecture.arguments())
    result = model.load_state_dict(dict(state), strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= {"mask_token"}
    return model.eval()


def random_network(architecture: Architecture, seed: int = 0) -> VisionTransformer:
    """Ours with random values."""
    model = VisionTransformer(**architecture.arguments()).eval()
    randomize(model, seed)
    return model


def assert_same_tokens(ours: Tokens, theirs: Tensor) -> None:
    """Equal to their sequence of CLS, registers, patches within 1e-5."""
    assert_close(torch.cat([ours.cls.unsqueeze(1), ours.registers, ours.patches], 1), theirs)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal within 1e-5."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, types and bits."""
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def images(channels: int = 3, height: int = 28, width: int = 28) -> Tensor:
    """Two images of noise."""
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def tokens(model: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tokens:
    """What our network says of them."""
    return model([x], [mask])[0]


def _prepare_torchvision() -> None:
    """Make both importable beside a torchvision whose compiled part does not fit torch (one with CUDA, one without).

    Importing it then fails where it describes two operators that nobody has declared; ViTs use none of them.
    """
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
