"""Feature distillation against loops over images, patches and channels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import tiny
import torch
import torch.nn.functional as F
from reference import assert_near
from torch import Tensor, nn

from dinotrain.data.batch import Batch
from dinotrain.methods.feature_distillation import FeatureDistillation
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.methods.outcome import Outcome
from dinotrain.models.networks import BackboneNetworks, FeatureNetworks
from dinotrain.models.projection import Projection

TEACHER_DIM = 24
NORMAL = ([0.0] * 3, [1.0] * 3)
SEEN, WANTED = ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), ([0.45, 0.45, 0.45], [0.22, 0.21, 0.2])
WEIGHTS = {"cls_weight": 0.5, "patch_weight": 2.0, "cosine_weight": 0.7, "smooth_l1_weight": 1.5, "smooth_l1_beta": 0.8}


class View(NamedTuple):
    """How a teacher looks at the 16 px crops of a student with patches of 4 px."""

    patch_size: int = 4
    size: int | None = None
    side: int = 4
    """Of its patch grid."""
    normalized: bool = False
    """Whether its images were normalised in another way than the student's."""


VIEWS = {
    "same grid": View(),
    "finer grid": View(patch_size=2, side=8, normalized=True),
    "coarser grid": View(patch_size=8, side=2),
    "higher resolution": View(size=24, side=6, normalized=True),
    "lower resolution, other patches": View(patch_size=3, size=9, side=3),
    "patches that don't fit": View(patch_size=5, side=3),
    "same grid, other patches": View(patch_size=7, size=28, normalized=True),
}


def frozen(view: View = VIEWS["same grid"], *, image_size: int | None = None) -> FrozenTeacher:
    """A backbone wider than its student's, some of whose channels are far larger than others."""
    side = view.patch_size * view.side if image_size is None else image_size
    changes = {"image_size": side, "patch_size": view.patch_size, "depth": 3, "num_heads": 3, "num_registers": 1}
    networks = BackboneNetworks(backbone=tiny.backbone(3, embed_dim=TEACHER_DIM, **changes))
    with torch.no_grad():
        networks.backbone.norm.weight.copy_(10.0 ** torch.linspace(-1, 1, TEACHER_DIM))
        networks.backbone.norm.bias.copy_(torch.linspace(-3, 3, TEACHER_DIM))
    seen, wanted = (SEEN, WANTED) if view.normalized else (NORMAL, None)
    return FrozenTeacher(networks.requires_grad_(False).eval(), size=view.size, seen=seen, wanted=wanted)


def student_networks(hidden_dim: int | None = None) -> FeatureNetworks:
    sizes = {"in_dim": tiny.DIM, "out_dim": TEACHER_DIM, "hidden_dim": hidden_dim, "init_std": 0.3}
    networks = FeatureNetworks(
        backbone=tiny.backbone(init_std=0.3, position_std=0.3),
        cls_projection=Projection(**sizes),
        patch_projection=Projection(**sizes),
    )
    networks.initialize(5)
    return networks


def method(**changes: Any) -> FeatureDistillation:
    return FeatureDistillation(**{"dim": TEACHER_DIM, **changes})


def learn(
    batch: Batch, m: FeatureDistillation, student: FeatureNetworks | None = None, teacher: FrozenTeacher | None = None
) -> tuple[Outcome, FeatureNetworks]:
    """One micro-batch, with its gradients."""
    student, teacher = student or student_networks(), teacher or frozen()
    out = m.compare(student, m.targets(teacher, batch, 0.07), batch)
    out.loss.backward()
    return out, student


def naive_images(crops: Tensor, view: View) -> Tensor:
    """What the teacher sees of the crops."""
    if view.normalized:
        (m, s), (n, t) = ([torch.tensor(x).view(3, 1, 1) for x in pair] for pair in (SEEN, WANTED))
        crops = (crops * s + m - n) / t
    side = view.side * view.patch_size
    return crops if side == 16 else F.interpolate(crops, size=(side, side), mode="bicubic", antialias=True)


def naive_tokens(teacher: FrozenTeacher, images: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
    """CLS token and patch tokens of one image after the other."""
    tokens = [teacher.networks.backbone([image[None]])[0] for image in images]
    return [t.cls[0] for t in tokens], [list(t.patches[0]) for t in tokens]


def moments(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    mean = sum(rows, torch.zeros(TEACHER_DIM, dtype=torch.float64)) / len(rows)
    squares = sum(((row - mean) ** 2 for row in rows), torch.zeros(TEACHER_DIM, dtype=torch.float64))
    return mean, squares / len(rows)


def standardized(row: Tensor, statistics: tuple[Tensor, Tensor]) -> Tensor:
    return ((row - statistics[0]) / (statistics[1] + 1e-6).sqrt()).float()


def shares(inputs: int, outputs: int) -> list[list[float]]:
    """Of each old place in each new one along a side: a triangle, as wide as the larger of the two steps."""
    width = max(inputs / outputs, 1.0)
    out = []
    for o in range(outputs):
        place = (o + 0.5) * inputs / outputs
        row = [max(0.0, 1 - abs(i + 0.5 - place) / width) for i in range(inputs)]
        out.append([value / sum(row) for value in row])
    return out


def naive_resampled(patches: list[Tensor], side: int, to: int) -> list[Tensor]:
    weights, out = shares(side, to), []
    for row in range(to):
        for column in range(to):
            total = torch.zeros(TEACHER_DIM)
            for i in range(side):
                for j in range(side):
                    total = total + weights[row][i] * weights[column][j] * patches[i * side + j]
            out.append(total)
    return out


def naive_terms(pairs: list[tuple[Tensor, Tensor]], beta: float) -> list[Tensor]:
    """Cosine distance and smooth L1, each as a mean."""
    cosines = [1 - (s * t).sum() / (s.norm() * t.norm()) for s, t in pairs]
    distances = []
    for s, t in pairs:
        d = (s - t).abs()
        distances.append(torch.where(d < beta, d * d / (2 * beta), d - beta / 2).sum() / TEACHER_DIM)
    return [torch.stack(cosines).mean(), torch.stack(distances).mean()]


def naive_loss(student: FeatureNetworks, cls: list[Tensor], patches: list[list[Tensor]], crops: Tensor) -> list[Tensor]:
    """The four terms for standardised targets on the student's grid."""
    cls_pairs, patch_pairs = [], []
    for crop, one, several in zip(crops, cls, patches, strict=True):
        (tokens,) = student.backbone([crop[None]])
        cls_pairs.append((student.cls_projection(tokens.cls)[0], one))
        patch_pairs += [(student.patch_projection(s[None])[0], t) for s, t in zip(tokens.patches[0], several)]
    beta = WEIGHTS["smooth_l1_beta"]
    return [*naive_terms(cls_pairs, beta), *naive_terms(patch_pairs, beta)]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_loss_and_gradients_of_two_steps(view: View) -> None:
    """The second step uses the statistics of the first."""
    student, teacher, m = student_networks(hidden_dim=20), frozen(view), method(**WEIGHTS)
    statistics = None
    for step in range(2):
        batch = tiny.batch(3, seed=step)
        crops = batch.global_crops.flatten(0, 1)
        student.zero_grad()
        got, _ = learn(batch, m, student, teacher)
        cls, patches = naive_tokens(teacher, naive_images(crops, view))
        statistics = statistics or (moments(cls), moments([row for rows in patches for row in rows]))
        cls_targets = [standardized(row, statistics[0]) for row in cls]
        patch_targets = [[standardized(row, statistics[1]) for row in rows] for rows in patches]
        patch_targets = [naive_resampled(rows, view.side, 4) for rows in patch_targets]
        terms = naive_loss(student, cls_targets, patch_targets, crops)
        for have, want in zip(got.terms, terms, strict=True):
            assert_near(have, want.detach(), 1e-5, 1e-5)
        loss = 0.5 * (0.7 * terms[0] + 1.5 * terms[1]) + 2.0 * (0.7 * terms[2] + 1.5 * terms[3])
        assert_near(got.loss.detach(), loss.detach(), 1e-5, 1e-5)
        assert_same_gradients(student, loss)
        m.after_step()


def assert_same_gradients(student: nn.Module, loss: Tensor) -> None:
    names, parameters = zip(*student.named_parameters())
    for name, p, grad in zip(names, parameters, torch.autograd.grad(loss, parameters, allow_unused=True)):
        assert (p.grad is None) == (grad is None) == (name == "backbone.mask_token"), name
        if grad is not None:
            assert_near(p.grad, grad, 2e-5, 1e-4)


def test_positions_of_the_teacher_are_resized_too() -> None:
    """A teacher trained at another resolution than the one it looks at."""
    out, _ = learn(tiny.batch(2), method(), teacher=frozen(image_size=32))
    assert out.loss.isfinite()


def test_local_crops_and_masks_are_not_looked_at() -> None:
    batch = tiny.batch(4)
    bare = tiny.from_crops(batch.global_crops, batch.local_crops[:0], torch.zeros_like(batch.masks))
    (one, student), (two, other) = (learn(b, method()) for b in (batch, bare))
    assert torch.equal(one.loss, two.loss)
    for a, b in zip(student.parameters(), other.parameters()):
        assert a.grad is None or b.grad is None or torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("left_out", ["cls", "patch"])
def test_a_kind_of_tokens_left_out(left_out: str) -> None:
    batch = tiny.batch(4)
    whole, _ = learn(batch, method())
    out, student = learn(batch, method(**{f"{left_out}_weight": 0.0}))
    kept = {"cls": "patch", "patch": "cls"}[left_out]
    expected = getattr(whole.terms, f"{kept}_cosine") + getattr(whole.terms, f"{kept}_smooth_l1")
    assert_near(out.loss.detach(), expected, 1e-5)
    assert not any(
        p.grad.any() for p in student.get_submodule(f"{left_out}_projection").parameters() if p.grad is not None
    )
    assert all(p.grad is not None and p.grad.any() for p in student.get_submodule(f"{kept}_projection").parameters())


@pytest.mark.parametrize("left_out", ["cosine", "smooth_l1"])
def test_a_distance_left_out(left_out: str) -> None:
    batch = tiny.batch(4)
    out, _ = learn(batch, method(**{f"{left_out}_weight": 0.0}))
    kept = {"cosine": "smooth_l1", "smooth_l1": "cosine"}[left_out]
    expected = getattr(out.terms, f"cls_{kept}") + getattr(out.terms, f"patch_{kept}")
    assert_near(out.loss.detach(), expected, 1e-5)


def test_a_student_that_knows_the_answer() -> None:
    """Scores perfectly against its own features, through projections that standardise."""
    teacher = frozen()
    batch, m = tiny.batch(4), method()
    targets = m.targets(teacher, batch, 0.07)
    (tokens,) = teacher.backbone([batch.global_crops.flatten(0, 1)])
    student = FeatureNetworks(
        backbone=teacher.networks.backbone,
        cls_projection=exact(tokens.cls, targets.cls),
        patch_projection=exact(tokens.patches.flatten(0, 1), targets.patches.flatten(0, 1)),
    )
    assert m.compare(student, targets, batch).loss < 1e-4


def exact(features: Tensor, wanted: Tensor) -> Projection:
    """The linear map from features to their standardised form."""
    scale = wanted.std(dim=0) / features.std(dim=0)
    projection = Projection(in_dim=TEACHER_DIM, out_dim=TEACHER_DIM)
    linear = projection.layers[0]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.diag(scale))
        linear.bias.copy_((wanted - features * scale).mean(dim=0))
    return projection


def test_only_the_student_learns() -> None:
    student, teacher, m, batch = student_networks(), frozen(), method(), tiny.batch(4)
    before = {name: p.clone() for name, p in teacher.networks.named_parameters()}
    optimizer, losses = torch.optim.AdamW(student.parameters(), lr=3e-3), []
    for _ in range(8):
        optimizer.zero_grad()
        out, _ = learn(batch, m, student, teacher)
        optimizer.step()
        m.after_step()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]
    for name, p in teacher.networks.named_parameters():
        assert p.grad is None, name
        assert torch.equal(p, before[name]), name
    grads = [p.grad for name, p in student.named_parameters() if name != "backbone.mask_token"]
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads)


def test_what_is_observed() -> None:
    out, _ = learn(tiny.batch(4), method())
    assert out.observed.prototypes is None
    assert out.observed.student_cls.shape == (4, tiny.DIM)
    assert not any(x.requires_grad for x in (*out.terms, out.observed.student_cls))


def test_statistics_move_once_per_step_and_are_kept() -> None:
    m, resumed = method(), method()
    learn(tiny.batch(4), m)
    assert all((value == 0).all() for value in m.state_dict().values())
    m.after_step()
    state = m.state_dict()
    assert set(state) == {
        f"{kind}_statistics.{name}" for kind in ("cls", "patch") for name in ("mean", "var", "updates")
    }
    assert all((value != 0).any() for value in state.values())
    resumed.load_state_dict(state)
    batch = tiny.batch(4, seed=1)
    (one, _), (two, _) = learn(batch, m), learn(batch, resumed)
    assert torch.equal(one.loss, two.loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim: got 0, expected at least 1"),
        ({"cls_weight": -1.0}, "cls_weight: got -1.0, expected 0 or more"),
        ({"patch_weight": -0.5}, "patch_weight: got -0.5, expected 0 or more"),
        ({"cosine_weight": -1.0}, "cosine_weight: got -1.0, expected 0 or more"),
        ({"smooth_l1_weight": math.nan}, "smooth_l1_weight: got nan, expected 0 or more"),
        ({"cls_weight": 0.0, "patch_weight": 0.0}, "cls_weight: got 0.0, expected above 0 where patch_weight is 0"),
        (
            {"cosine_weight": 0.0, "smooth_l1_weight": 0.0},
            "cosine_weight: got 0.0, expected above 0 with smooth_l1_weight 0",
        ),
        ({"smooth_l1_beta": 0.0}, "smooth_l1_beta: got 0.0, expected a number above 0"),
        ({"statistics_momentum": 1.0}, "statistics_momentum: got 1.0, expected in [0, 1)"),
        ({"statistics_momentum": -0.1}, "statistics_momentum: got -0.1, expected in [0, 1)"),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole line is compared
        method(**changes)
    assert str(error.value) == message
