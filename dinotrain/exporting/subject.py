"""What is exported: a backbone or a classifier, and how images enter it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.classifiers.classifier import Classifier
from dinotrain.errors import UserError
from dinotrain.models.position import positions_for
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import ClassifierWeights
from dinotrain.weights.fit import POSITIONS, load_into
from dinotrain.weights.weights import IMAGENET, Normalization, Weights

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Outputs = dict[str, Tensor]
"""Results by name, float32: "logits" [B, classes] of a classifier, "cls" [B, D], "registers" [B, R, D] where there are
any, "patches" [B, N, D], row-major; tokens after the final norm."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A backbone, or the backbone of a classifier with its head.

    Args:
        weights: of the backbone.
        size: px of the square images that it is meant for.
        crop_fraction: of the resized short side.
        classifier: with the same backbone; None where there is no head.
    """

    weights: Weights
    size: int
    crop_fraction: float
    classifier: ClassifierWeights | None = None

    @property
    def architecture(self) -> Architecture:
        """Of the backbone."""
        return self.weights.architecture

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return "backbone" if self.classifier is None else "classifier"

    @property
    def normalization(self) -> Normalization | None:
        """Mean and deviation of images in 0..1; ImageNet's where nothing is known of RGB images."""
        return self.weights.normalization or (IMAGENET if self.architecture.channels == 3 else None)

    @property
    def grid(self) -> int:
        """Patches along a side of the position table."""
        return self.architecture.image_size // self.architecture.patch_size

    @property
    def half(self) -> bool:
        """Whether weights are stored in less than float32."""
        return self.dtype != torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights."""
        return self.weights.backbone["patch_embed.proj.weight"].dtype

    @cached_property
    def network(self) -> VisionTransformer:
        """The backbone in float32 on the CPU, in evaluation mode."""
        return network_of(self.weights)

    @cached_property
    def head(self) -> nn.Linear | None:
        """The linear head in float32."""
        return None if self.classifier is None else head_of(self.classifier.weight, self.classifier.bias)

    @property
    def blocks(self) -> int:
        """How many blocks' CLS tokens the head takes; 1 where there is none."""
        return 1 if self.classifier is None else self.classifier.description.blocks

    @torch.no_grad()
    def outputs(self, images: Float[Tensor, "B C H W"]) -> Outputs:
        """What it makes of normalised images, by our own code: what every export is held to."""
        tokens = self.network([images])[0]
        found = {} if self.classifier is None else {"logits": self._classifier(images)}
        found |= {"cls": tokens.cls} | ({"registers": tokens.registers} if self.architecture.num_registers else {})
        return found | {"patches": tokens.patches}

    @cached_property
    def _classifier(self) -> Classifier:
        assert self.classifier is not None
        assert self.head is not None
        built = Classifier(self.network, self.classifier.description)
        built.head = self.head
        return built.eval()

    def words(self) -> dict[str, Any]:
        """What whoever uses it without this package has to know, as JSON has it."""
        mean, std = self.normalization or ((), ())
        told: dict[str, Any] = {
            "architecture": self.architecture.brief(),
            "patch_size": self.architecture.patch_size,
            "size": self.size,
            "crop_fraction": self.crop_fraction,
            "mean": list(mean),
            "std": list(std),
        }
        if self.classifier is not None:
            description = self.classifier.description
            told |= {
                "classes": list(description.classes),
                "labels": description.labels,
                "thresholds": list(description.thresholds),
            }
        return told

    def without_head(self) -> Subject:
        """The backbone alone."""
        return replace(self, classifier=None)

    def for_images_of(self, image_size: int) -> Subject:
        """With the position table of another native resolution, resized by the rule of the network.

        The same at images of that size as before, which also holds for libraries that resize by another rule.

        Raises:
            UserError: for a size of no whole number of patches.
        """
        patch = self.architecture.patch_size
        if image_size % patch:
            near = max(round(image_size / patch), 1) * patch
            raise UserError(f"image_size: {image_size} px is not a multiple of the patches of {patch} px; {near} is")
        grid = image_size // patch
        table = self.weights.backbone[POSITIONS]
        resized = positions_for(table, grid, grid, self.architecture.position_resize).to(table.dtype)
        return self._with({**self.weights.backbone, POSITIONS: resized}, image_size)

    def in_dtype(self, dtype: torch.dtype) -> Subject:
        """With all weights in another type.

        Raises:
            UserError: if some are too large for it.
        """
        cast = {name: _cast(value, dtype, name) for name, value in self.weights.backbone.items()}
        subject = self._with(cast, self.architecture.image_size)
        if subject.classifier is None:
            return subject
        head = {key: _cast(getattr(subject.classifier, key), dtype, f"head.{key}") for key in ("weight", "bias")}
        return replace(subject, classifier=replace(subject.classifier, **head))

    def _with(self, backbone: Mapping[str, Tensor], image_size: int) -> Subject:
        weights = replace(
            self.weights, backbone=backbone, architecture=replace(self.architecture, image_size=image_size)
        )
        classifier = None if self.classifier is None else replace(self.classifier, backbone=weights)
        return replace(self, weights=weights, classifier=classifier)


def _cast(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    found = value.to(dtype)
    if not torch.isfinite(found).all():
        raise UserError(f"dtype: {name} holds numbers too large for {dtype}; expected bf16 or fp32")
    return found


def network_of(weights: Weights) -> VisionTransformer:
    """The backbone with its weights, float32, on the CPU, in evaluation mode, without gradients.

    Raises:
        UserError: if the weights do not fit, or are not finite numbers.
    """
    with torch.device("meta"):
        network = VisionTransformer(**weights.architecture.arguments())
    network.to_empty(device="cpu")
    load_into(network, weights.backbone, path=weights.path, what="the backbone")
    return network.requires_grad_(False).eval()


def head_of(weight: Float[Tensor, "classes F"], bias: Float[Tensor, "classes"]) -> nn.Linear:
    """A linear head with these values, float32, without gradients."""
    with torch.device("meta"):
        head = nn.Linear(weight.shape[1], weight.shape[0])
    head.to_empty(device="cpu")
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head.requires_grad_(False)
