"""Whether a network is learning or collapsing: cheap measures on the device, for logged steps.

All take detached tensors of any floating type, work in fp32 or better, and give 0-d tensors on the same device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinotrain.methods.outcome import Observed, Prototypes

RANK_ROWS = 256
"""Rows that `effective_rank` looks at: its cost grows with the cube of their number."""


class PrototypeHealth(NamedTuple):
    """What teacher and student say of the prototypes; the names are keys of `metrics.jsonl`."""

    teacher_entropy: Float[Tensor, ""]
    """nats; 0 when every target is one prototype, ln K when targets say nothing."""
    student_entropy: Float[Tensor, ""]
    """nats."""
    teacher_student_kl: Float[Tensor, ""]
    """nats; what the student can still learn: the DINO loss less the teacher's entropy."""
    prototypes_used: Float[Tensor, ""]
    """0 to 1; of as many prototypes as the batch could use."""


class FeatureHealth(NamedTuple):
    """How the student's CLS features lie; the names are keys of `metrics.jsonl`."""

    feature_std: Float[Tensor, ""]
    """0 when all features are the same, 1 when they are spread evenly."""
    effective_rank: Float[Tensor, ""]
    """dimensions, at most the batch less one."""
    nearest_distance: Float[Tensor, ""]
    """0 to 2."""


@torch.no_grad()
def health(observed: Observed) -> dict[str, Float[Tensor, ""]]:
    """All measures of one batch; those of the prototypes only where the method has some."""
    cls = observed.student_cls
    measures = FeatureHealth(feature_std(cls), effective_rank(cls), nearest_distance(cls))._asdict()
    if observed.prototypes is None:
        return measures
    return prototype_health(observed.prototypes)._asdict() | measures


def prototype_health(seen: Prototypes) -> PrototypeHealth:
    """The measures of the prototypes."""
    log_student = F.log_softmax(seen.student_scores.float() / seen.student_temperature, dim=-1)
    targets = seen.targets.float()
    return PrototypeHealth(
        teacher_entropy=entropy(targets),
        student_entropy=entropy(log_student.exp()),
        teacher_student_kl=kl_divergence(targets, log_student),
        prototypes_used=prototypes_used(targets),
    )


def entropy(probabilities: Float[Tensor, "R K"]) -> Float[Tensor, ""]:
    """Mean over rows of -sum p ln p, in nats."""
    return torch.special.entr(probabilities.float()).sum(dim=-1).mean()


def kl_divergence(targets: Float[Tensor, "R K"], log_student: Float[Tensor, "R K"]) -> Float[Tensor, ""]:
    """Mean over rows of KL(targets || student), in nats."""
    cross_entropy = -(targets.float() * log_student.float()).sum(dim=-1).mean()
    return cross_entropy - entropy(targets)


def prototypes_used(targets: Float[Tensor, "R K"]) -> Float[Tensor, ""]:
    """Different prototypes that are some row's most probable one, as a share of min(R, K).

    Close to 1 when every image has a prototype of its own, 1 / min(R, K) when all images share one.
    """
    rows, prototypes = targets.shape
    used = torch.zeros(prototypes, device=targets.device).scatter_(0, targets.argmax(dim=-1), 1.0)
    return used.sum() / min(rows, prototypes)


def feature_std(features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean over dimensions of the standard deviation over the batch of L2-normalised features, times sqrt(D).

    Features spread evenly over the sphere have a standard deviation of 1 / sqrt(D) in every dimension (SimSiam paper,
    section 4.1), which the factor makes 1.
    """
    normalized = F.normalize(features.float(), dim=-1)
    return normalized.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5


def effective_rank(features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """exp of the entropy of the centred features' singular values, as shares of their sum (Roy and Vetterli 2007).

    Between 1 and min(B - 1, D); 1 too when all features are the same, and NaN when one of them is not finite. At most
    `RANK_ROWS` rows are looked at. The singular values are square roots of the eigenvalues of the smaller Gram matrix,
    in fp64 because of the squares. On CUDA, torch waits for the eigenvalues to check them: meant for logged steps,
    whose numbers are read right after.
    """
    centred = features[:RANK_ROWS].double()
    finite = centred.isfinite().all()
    # An eigenvalue solver raises on NaN; a step that overflowed in fp16 must not end the run here.
    centred = centred.nan_to_num(0.0, 0.0, 0.0)
    centred = centred - centred.mean(dim=0)
    gram = centred @ centred.T if centred.shape[0] <= centred.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram)
    # Rounding leaves tiny values where there are none, whose square roots would count.
    singular = torch.where(values > values[-1] * 1e-12, values, 0.0).clamp(min=0).sqrt()
    rank = torch.special.entr(singular / singular.sum().clamp(min=1e-30)).sum().exp()
    return torch.where(finite, rank, torch.nan).float()


def nearest_distance(features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean distance of an L2-normalised feature to its nearest neighbour in the batch; NaN for a batch of one."""
    if features.shape[0] < 2:
        return features.new_full((), torch.nan, dtype=torch.float32)
    normalized = F.normalize(features.float(), dim=-1)
    similarity = (normalized @ normalized.T).fill_diagonal_(-2.0)
    return (2 - 2 * similarity.amax(dim=-1)).clamp(min=0).sqrt().mean()
