"""Running statistics of teacher features."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import assert_near
from spawn import run_processes
from torch import Tensor

from dinotrain.losses.standardize import Standardize

DIM = 6
EPS = 1e-6


def steps(count: int = 5, rows: int = 30, seed: int = 0) -> list[Tensor]:
    """Rows of unlike channels, whose mean wanders from step to step."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift = 10.0 ** torch.arange(-2, DIM - 2), 5 * torch.randn(DIM, generator=generator)
    drawn = torch.randn(count, rows, DIM, generator=generator) + torch.randn(count, 1, DIM, generator=generator)
    return list((drawn + shift) * scale)


def feed(standardize: Standardize, step: list[Tensor]) -> list[Tensor]:
    """One step of several micro-batches."""
    out = [standardize(part) for part in step]
    standardize.update()
    return out


def naive(data: list[Tensor], momentum: float) -> list[Tensor]:
    """Each step with the statistics of those before it, in float64; the first with its own."""
    first = second = torch.zeros(DIM, dtype=torch.float64)
    out = []
    for number, x in enumerate(data):
        x = x.double()
        mean, moment = x.sum(dim=0) / len(x), (x * x).sum(dim=0) / len(x)
        used, square = (first, second) if number else (mean, moment)
        out.append((x - used) / (square - used * used + EPS).sqrt())
        weight = max(1 - momentum, 1 / (number + 1))
        first, second = first + weight * (mean - first), second + weight * (moment - second)
    return out


@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.99])
def test_every_step_uses_those_before_it(momentum: float) -> None:
    data, standardize = steps(), Standardize(DIM, momentum=momentum, eps=EPS)
    for x, expected in zip(data, naive(data, momentum)):
        (got,) = feed(standardize, [x])
        assert_near(got.double(), expected, 1e-4, 1e-4)


def test_the_first_step_has_mean_0_and_deviation_1() -> None:
    (out,) = feed(Standardize(DIM), steps(1, rows=500))
    assert_near(out.mean(dim=0), torch.zeros(DIM), 1e-5)
    assert_near(out.square().mean(dim=0), torch.ones(DIM), 2e-2)  # eps shows in a channel of variance 1e-4


def test_early_statistics_are_those_of_all_rows_so_far() -> None:
    """Also in the variance: the means of the steps differ."""
    data, standardize = steps(8), Standardize(DIM, momentum=0.99)
    for x in data:
        feed(standardize, [x])
    seen = torch.cat(data).double()
    assert_near(standardize.mean.double(), seen.mean(dim=0), 0.0, 1e-5)
    assert_near(standardize.var.double(), seen.var(dim=0, correction=0), 0.0, 1e-5)


def test_a_far_mean_leaves_the_variance_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    standardize = Standardize(DIM)
    data = [(1000 + torch.randn(200, DIM, generator=generator)) for _ in range(3)]
    for x in data:
        feed(standardize, [x[:50], x[50:]])
    assert_near(standardize.var.double(), torch.cat(data).double().var(dim=0, correction=0), 0.0, 1e-4)


@pytest.mark.parametrize("sizes", [[10, 20], [30, 0], [0, 1, 29], [1] * 30])
def test_a_split_step_gives_the_same(sizes: list[int]) -> None:
    whole, split = Standardize(DIM), Standardize(DIM)
    for number, x in enumerate(steps()):
        (expected,), parts = feed(whole, [x]), feed(split, list(x.split(sizes)))
        if number:
            assert_near(torch.cat(parts), expected, 1e-5, 1e-5)
    assert_near(split.mean, whole.mean, 0.0, 1e-5)
    assert_near(split.var, whole.var, 0.0, 1e-5)


def _share(rank: int, data: list[Tensor], sizes: list[list[int]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    standardize = Standardize(DIM)
    out = [feed(standardize, [x.split(sizes[number % len(sizes)])[rank]])[0] for number, x in enumerate(data)]
    return out, dict(standardize.state_dict())


@pytest.mark.parametrize("sizes", [[[15, 15]], [[30, 0], [0, 30], [7, 23]]])
def test_two_processes_are_one(sizes: list[list[int]]) -> None:
    """From the very first step on, as nothing is split further; a process may have no rows."""
    data, alone = steps(4), Standardize(DIM)
    expected = [feed(alone, [x])[0] for x in data]
    (first, state), (second, other) = run_processes(2, _share, data, sizes)
    for parts, whole in zip(zip(first, second), expected):
        assert_near(torch.cat(parts), whole, 1e-5, 1e-5)
    for name, value in alone.state_dict().items():
        assert_near(state[name], value, 0.0, 1e-5)
        assert torch.equal(state[name], other[name])


def _nothing(rank: int, x: Tensor) -> tuple[int, Tensor]:
    standardize = Standardize(DIM)
    feed(standardize, [x[:0]])
    return int(standardize.updates), feed(standardize, [x if rank == 0 else x[:0]])[0]


def test_steps_without_rows_anywhere_count_for_nothing() -> None:
    (x,) = steps(1)
    (expected,) = feed(Standardize(DIM), [x])
    (none, out), (_, empty) = run_processes(2, _nothing, x)
    assert none == 0
    assert_near(out, expected, 1e-5)
    assert empty.shape == (0, DIM)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_a_constant_channel_is_0(value: float) -> None:
    standardize = Standardize(DIM)
    for x in steps(3):
        x[:, 2] = value
        for out in feed(standardize, [x[:11], x[11:]]):
            assert out.isfinite().all()
            assert out[:, 2].abs().max() < 1e-2
    assert standardize.var[2] < 1e-6


def test_a_single_row() -> None:
    (out,) = feed(Standardize(DIM), [steps(1, rows=1)[0]])
    assert (out == 0).all()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_an_overflow_does_not_stay(bad: float) -> None:
    data, clean, met = steps(3), Standardize(DIM), Standardize(DIM)
    broken = data[1].clone()
    broken[3, 1] = bad
    for standardize, middle in ((clean, []), (met, [broken])):
        feed(standardize, [data[0]])
        feed(standardize, middle)
    assert_near(met(data[2]), clean(data[2]), 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Far more rows than fp16 could add up."""
    half, full = Standardize(DIM), Standardize(DIM)
    for x in steps(2, rows=3000):
        x = (x / 100).to(dtype)
        (got,), (expected,) = feed(half, [x]), feed(full, [x.float()])
        assert got.dtype == torch.float32
        assert_near(got, expected, 0.0)


def test_the_rows_are_left_as_they_were() -> None:
    (x,) = steps(1)
    before = x.clone()
    feed(Standardize(DIM), [x])
    assert torch.equal(x, before)


def test_resume() -> None:
    """A loaded state goes on bit for bit, whatever its holder had seen before."""
    data, standardize, resumed = steps(5), Standardize(DIM), Standardize(DIM)
    for x in data[:3]:
        feed(standardize, [x])
    feed(resumed, [data[4]])
    resumed(data[4])
    resumed.load_state_dict(copy.deepcopy(standardize.state_dict()))
    for x in data[3:]:
        (got,), (expected,) = feed(resumed, [x]), feed(standardize, [x])
        assert torch.equal(got, expected)
    assert list(standardize.state_dict()) == ["mean", "var", "updates"]


def test_back_to_the_start() -> None:
    """The state of before the first step can be loaded into what has seen some."""
    first, second, last = steps(3)
    standardize = Standardize(DIM)
    feed(standardize, [first])
    feed(standardize, [second])
    standardize.load_state_dict(Standardize(DIM).state_dict())
    assert torch.equal(standardize(last), Standardize(DIM)(last))


def test_no_gradient() -> None:
    x = steps(1)[0].requires_grad_()
    standardize = Standardize(DIM)
    (out,) = feed(standardize, [x])
    assert not out.requires_grad
    assert not list(standardize.parameters())


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dim", 0, "at least 1"),
        ("momentum", 1.0, "in [0, 1)"),
        ("momentum", -0.1, "in [0, 1)"),
        ("eps", 0.0, "a number above 0"),
    ],
)
def test_values_out_of_range(key: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole line is compared
        Standardize(**{"dim": DIM, key: value})  # pyright: ignore
    assert str(error.value) == f"{key}: got {value}, expected {expected}"
