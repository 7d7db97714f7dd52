"""A vision transformer that tells classes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.evaluation.features import Preparation
from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import ClassifierDescription, ClassifierWeights
from dinotrain.weights.fit import load_into
from dinotrain.weights.weights import Weights


class Classifier(nn.Module):
    """A backbone and a linear head on the CLS tokens of its last blocks and the mean patch token of the last one.

    With one block this is what Hugging Face's Dinov2ForImageClassification computes, with four the wider of the two
    linear classifiers that were released with DINOv2.

    Args:
        backbone: on its device.
        description: of the head and of how images enter.
    """

    def __init__(self, backbone: VisionTransformer, description: ClassifierDescription) -> None:
        super().__init__()
        self.backbone, self.description = backbone, description
        device = next(backbone.parameters()).device
        self.head = nn.Linear(
            (description.blocks + 1) * backbone.embed_dim, len(description.classes), device=device, dtype=torch.float32
        )

    @property
    def preparation(self) -> Preparation:
        """From an image to the input."""
        mean, std = (_three(values) for values in (self.description.mean, self.description.std))
        return Preparation(size=self.description.size, crop_fraction=self.description.crop_fraction, mean=mean, std=std)

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """What the head takes, F = (blocks + 1) * D, in float32, for normalised images."""
        blocks = self.description.blocks
        # As a whole where that is enough: a sharded network gathers its parts only then.
        tokens = self.backbone([images]) if blocks == 1 else self.backbone.intermediate(images, list(range(-blocks, 0)))
        return torch.cat([*(each.cls.float() for each in tokens), tokens[-1].patches.float().mean(dim=1)], dim=1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes"]:
        """Scores of the classes, before softmax or sigmoid."""
        return self.head(self.features(images))

    def probabilities(self, scores: Float[Tensor, "B classes"]) -> Float[Tensor, "B classes"]:
        """Softmax over classes that exclude each other, else the sigmoid of each."""
        scores = scores.float()
        return scores.softmax(dim=1) if self.description.labels == "single" else scores.sigmoid()

    @classmethod
    def of_weights(cls, weights: ClassifierWeights, device: torch.device | None = None) -> Classifier:
        """The network of a file, without gradients, in evaluation mode.

        Raises:
            UserError: if the tensors do not fit the description.
        """
        device = device or torch.device("cpu")
        architecture = weights.backbone.architecture
        with torch.device("meta"):
            backbone = VisionTransformer(**architecture.arguments())
        backbone.to_empty(device=device)
        load_into(backbone, weights.backbone.backbone, path=weights.backbone.path, what="the backbone")
        width = architecture.embed_dim // architecture.num_heads
        select_attention(backbone, available_backends(device, torch.float32, width)[-1])
        classifier = cls(backbone, weights.description)
        with torch.no_grad():
            classifier.head.weight.copy_(weights.weight)
            classifier.head.bias.copy_(weights.bias)
        return classifier.requires_grad_(False).eval()

    def weights(self, architecture: Architecture, path: str = "") -> ClassifierWeights:
        """What `write_classifier` takes. Not for sharded networks: their parameters must be gathered first."""
        backbone = Weights(
            path=path, layout="", architecture=architecture, backbone=dict(self.backbone.named_parameters())
        )
        return ClassifierWeights(
            backbone=backbone, weight=self.head.weight, bias=self.head.bias, description=self.description
        )


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    one, two, three = values
    return one, two, three
