"""Building a classifier that is trained, sharded over the processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from dinotrain.classifiers.classifier import Classifier
from dinotrain.distributed.parallelize import DTYPES, Precision, materialize, parallelize
from dinotrain.models.attention import available_backends, select_attention
from dinotrain.models.init import InitialValues, initialize
from dinotrain.models.shards import write_whole
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.classifier_file import ClassifierDescription, ClassifierWeights
from dinotrain.weights.fit import load_into
from dinotrain.weights.weights import Weights

HEAD_STD = 0.01
EXACT = ("head",)
"""In half precision many images would have the same score, and thresholds would be of other numbers than in use."""


class HeadAlone(nn.Module):
    """The head of a classifier whose backbone is not trained, and so none of its parameters."""

    def __init__(self, head: nn.Linear, features: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self._features = head, features

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes"]:
        with torch.no_grad():
            features = self._features(images)
        return self.head(features)


def build_classifier(
    weights: Weights,
    description: ClassifierDescription,
    *,
    trains_backbone: bool,
    mesh: DeviceMesh,
    precision: Precision,
    drop_path: float = 0.0,
    device: torch.device,
) -> Classifier:
    """A classifier without values, its backbone and head each a unit of the parallel plan."""
    architecture = weights.architecture
    with torch.device("meta"):
        classifier = Classifier(VisionTransformer(**{**architecture.arguments(), "drop_path": drop_path}), description)
    classifier.backbone.requires_grad_(trains_backbone)
    width = architecture.embed_dim // architecture.num_heads
    select_attention(classifier.backbone, available_backends(device, DTYPES[precision], width)[-1])
    # Evaluations come between the steps: what stayed gathered after a forward pass would not see the next update.
    parallelize(classifier, mesh=mesh, precision=precision, reshard_after_forward=True, exact=EXACT)
    materialize(classifier, device)
    return classifier


def fill(classifier: Classifier, weights: Weights, head: ClassifierWeights | None, seed: int) -> tuple[str, ...]:
    """Take the backbone from its weights, and the head from a classifier; without one it is drawn.

    Returns:
        What was done to the weights, in words.

    Raises:
        UserError: if they do not fit.
    """
    done = load_into(classifier.backbone, weights.backbone, path=weights.path, what="the backbone")
    if head is None:
        initialize(classifier.head, seed, InitialValues(weight_std=HEAD_STD), name="head")
    else:
        with torch.no_grad():
            rows = [head.description.classes.index(name) for name in classifier.description.classes]
            write_whole(classifier.head.weight, head.weight[rows])
            write_whole(classifier.head.bias, head.bias[rows])
    return done


def copy_of_head(classifier: Classifier, *, mesh: DeviceMesh, precision: Precision, device: torch.device) -> nn.Module:
    """Room for the values of a head, sharded as the head itself."""
    head = classifier.head
    with torch.device("meta"):
        room = nn.ModuleDict({"head": nn.Linear(head.in_features, head.out_features, dtype=torch.float32)})
    parallelize(room, mesh=mesh, precision=precision, reshard_after_forward=True, exact=EXACT)
    materialize(room, device)
    return room


@torch.no_grad()
def whole_tensors(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """All parameters, gathered one at a time, on the CPU; all processes together, and those that `keep` get them."""
    found = {}
    for name, parameter in module.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if keep:
            found[name] = whole.detach().cpu()
    return found
