"""Entries for torch.hub: networks of the sizes that were released with DINOv2, and of any other.

model = torch.hub.load("path/to/this/checkout", "dinov2_vits14", source="local", weights="backbone.pth")

Nothing is downloaded: `weights` is a path to anything that this trainer reads (runs, checkpoints, .pth files, Hugging
Face folders, safetensors), or None for random values. `dinov2_<size>` gives the CLS token of normalised images, and has
`forward_features` and `get_intermediate_layers`; `_reg` has 4 registers; `_lc` has a linear classifier on it.
Keyword arguments of all: image_size (px of the position table), num_heads, position_resize, norm_eps, for what a file
does not say; of `_lc` also head_weights (state dict of weight and bias), layers (1 or 4), num_classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinotrain.exporting import hub as _hub
from dinotrain.exporting import hub_networks as _networks

if TYPE_CHECKING:
    from collections.abc import Callable

    from dinotrain.models.position import Resize

dependencies = ["torch", "jaxtyping", "numpy", "safetensors", "yaml"]


def _backbone(name: str) -> Callable[..., _networks.HubBackbone]:
    def build(
        *,
        weights: str | None = None,
        pretrained: bool = False,
        image_size: int | None = None,
        num_heads: int | None = None,
        position_resize: Resize | None = None,
        norm_eps: float | None = None,
    ) -> _networks.HubBackbone:
        _refuse_download(pretrained, weights)
        choices = _hub.Choices(
            image_size=image_size, num_heads=num_heads, position_resize=position_resize, norm_eps=norm_eps
        )
        return _hub.backbone_of(name, weights=weights, choices=choices)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = "The backbone; see the top of this file."
    return build


def _classifier(name: str) -> Callable[..., _networks.HubClassifier]:
    def build(
        *,
        weights: str | None = None,
        head_weights: str | None = None,
        layers: int | None = None,
        num_classes: int | None = None,
        pretrained: bool = False,
        image_size: int | None = None,
        num_heads: int | None = None,
        position_resize: Resize | None = None,
        norm_eps: float | None = None,
    ) -> _networks.HubClassifier:
        _refuse_download(pretrained, weights)
        choices = _hub.Choices(
            image_size=image_size, num_heads=num_heads, position_resize=position_resize, norm_eps=norm_eps
        )
        return _hub.classifier_of(
            name,
            weights=weights,
            head_weights=head_weights,
            layers=layers,
            num_classes=num_classes,
            choices=choices,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = "A linear classifier on the backbone; see the top of this file."
    return build


def _refuse_download(pretrained: bool, weights: str | None) -> None:
    if pretrained and weights is None:
        raise ValueError("pretrained: got True, but nothing is downloaded here; expected weights=PATH")


for _name in (_hub.ANY, *(f"{_hub.PREFIX}{size}{registers}" for size in _hub.RELEASED for registers in ("", "_reg"))):
    globals()[_name] = _backbone(_name)
    globals()[f"{_name}_lc"] = _classifier(f"{_name}_lc")
