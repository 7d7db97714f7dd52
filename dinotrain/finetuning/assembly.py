"""From weights and a recipe to what is trained."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh

from dinotrain.classifiers.classifier import Classifier
from dinotrain.distributed.parallelize import Precision
from dinotrain.finetuning.networks import HeadAlone, build_classifier, copy_of_head, fill
from dinotrain.finetuning.state import BestWeights, FinetuneState, Progress
from dinotrain.finetuning.supervised import Supervised
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.weights.classifier_file import ClassifierDescription, ClassifierWeights
from dinotrain.weights.weights import Weights


def default_precision(device: torch.device) -> Precision:
    """bf16 on CUDA, which needs no loss scale; fp16 on GPUs that do not have it; fp32 on a CPU."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def build_state(
    weights: Weights,
    description: ClassifierDescription,
    objective: Supervised,
    recipe: OptimizationRecipe,
    *,
    trains_backbone: bool,
    head: ClassifierWeights | None,
    drop_path: float,
    mesh: DeviceMesh,
    precision: Precision,
    device: torch.device,
    seed: int,
) -> tuple[FinetuneState, Classifier, tuple[str, ...]]:
    """What is trained, the classifier that it is or is a part of, and what was done to the weights, in words.

    Args:
        head: a classifier of the same classes, whose head is taken over; None for a new one.

    Raises:
        UserError: if the weights do not fit.
    """

    def build() -> Classifier:
        return build_classifier(
            weights,
            description,
            trains_backbone=trains_backbone,
            mesh=mesh,
            precision=precision,
            drop_path=drop_path,
            device=device,
        )

    classifier = build()
    if trains_backbone:
        student, best = classifier.train(), build()
    else:
        classifier.eval()
        student = HeadAlone(classifier.head, classifier.features)
        best = copy_of_head(classifier, mesh=mesh, precision=precision, device=device)
    done = fill(classifier, weights, head, seed)
    average = BestWeights(best.requires_grad_(False), student)
    average.copy()
    state = FinetuneState(
        student=student,
        ema=best,
        method=objective.to(device),
        optimizer=recipe.optimizer(student, weights.architecture.depth),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),  # pyright: ignore
        seed=seed,
        ema_name="ema",
        average=average,
        progress=Progress(),
    )
    return state, classifier, done
