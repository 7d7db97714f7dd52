"""A network that is asked about batches of images: a backbone, perhaps with a classifier on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dinotrain.classifiers.classifier import Classifier
from dinotrain.evaluation.backbone import Backbone


class Model:
    """What commands and servers ask.

    Args:
        name: for people.
        backbone: with the way images enter it.
        classifier: on the same network; None for none.
    """

    def __init__(self, *, name: str, backbone: Backbone, classifier: Classifier | None = None) -> None:
        self.name, self.backbone, self.classifier = name, backbone, classifier
        self.preparation = backbone.preparation

    @classmethod
    def of_classifier(cls, classifier: Classifier, *, name: str, dtype: torch.dtype = torch.float32) -> Model:
        """The model of a classifier, on the device where that is.

        Args:
            dtype: matrix products are computed in it.
        """
        backbone = Backbone(classifier.backbone, classifier.preparation, dtype=dtype)
        return cls(name=name, backbone=backbone, classifier=classifier)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names; none of a model without a classifier."""
        return () if self.classifier is None else self.classifier.description.classes

    @torch.inference_mode()
    def probabilities(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B classes"]:
        """Of each class, on the CPU; `pixels` as `preparation.pixels` makes them."""
        assert self.classifier is not None
        backbone = self.backbone
        half = backbone.dtype != torch.float32
        with torch.autocast(backbone.device.type, backbone.dtype if half else torch.bfloat16, enabled=half):
            features = self.classifier.features(backbone.normalize(pixels))
        # In full precision: the head is the smallest part, and says how sure it is.
        scores = self.classifier.head(features.float())
        return self.classifier.probabilities(scores).cpu()

    @torch.inference_mode()
    def embeddings(self, pixels: UInt8[Tensor, "B 3 S S"], parts: Sequence[str]) -> Float[Tensor, "B parts D"]:
        """One vector for each of the parts that `Backbone.pooled` knows, on the CPU."""
        found = self.backbone.pooled(self.backbone.normalize(pixels), parts)
        return torch.stack([found[part] for part in parts], dim=1).cpu()

    def warm_up(self) -> None:
        """Ask it once, so that the first who asks does not wait for what is made then."""
        side = self.preparation.size
        blank = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        if self.classifier is not None:
            self.probabilities(blank)
        else:
            self.embeddings(blank, ["cls_1"])
