from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_setting import fake_setting

from dinotrain.errors import UserError
from dinotrain.evaluation import logistic
from dinotrain.evaluation.logistic import LogisticModel, LogisticRegression
from dinotrain.evaluation.tasks.logistic import Logistic


def clusters(count: int = 600, classes: int = 4, dim: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap, with columns of different scales and a mean far from zero."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    points = np.random.default_rng(1).standard_normal((classes, dim))[labels] + 1.5 * random.standard_normal(
        (count, dim)
    )
    return (points * np.geomspace(0.3, 3, dim) + np.linspace(-3, 5, dim)).astype(np.float32), labels


def problem(x: np.ndarray | torch.Tensor, labels: np.ndarray, classes: int = 4, **options: float) -> LogisticRegression:
    return LogisticRegression(
        torch.as_tensor(x),
        torch.from_numpy(labels),
        torch.arange(len(labels)),
        classes=classes,
        device=torch.device("cpu"),
        **options,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("c", [1e-5, 1e-3, 0.1, 10.0])
def test_it_is_the_classifier_of_scikit_learn(c: float) -> None:
    from sklearn.linear_model import LogisticRegression as Reference

    x, labels = clusters()
    found = problem(x, labels, tolerance=1e-6).fit(c)
    reference = Reference(C=c, tol=1e-9, max_iter=10000).fit(x.astype(np.float64), labels)
    np.testing.assert_allclose(found.weight, reference.coef_, atol=2e-3 * np.abs(reference.coef_).max())
    # A constant added to all biases changes nothing.
    bias = found.bias.numpy() - found.bias.numpy().mean()
    expected = reference.intercept_ - reference.intercept_.mean()
    np.testing.assert_allclose(bias, expected, atol=5e-3 * (1 + np.abs(expected).max()))
    fresh, truth = clusters(seed=5)
    accuracy = (found.logits(torch.from_numpy(fresh)).argmax(dim=1).numpy() == truth).mean()
    assert accuracy == pytest.approx(reference.score(fresh, truth), abs=0.005)


def test_a_start_nearby_changes_the_way_but_not_the_solution() -> None:
    x, labels = clusters()
    solver = problem(x, labels, tolerance=1e-6)
    cold, warm = solver.fit(0.1), solver.fit(0.1, solver.fit(0.05))
    torch.testing.assert_close(warm.weight, cold.weight, atol=2e-3, rtol=0)


def test_features_in_a_file_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clusters()
    expected = problem(x, labels).fit(0.1)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(logistic, "room", lambda device, processes: 0)
    monkeypatch.setattr(logistic, "_CHUNK", 128)
    stored = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    found = problem(stored, labels).fit(0.1)
    torch.testing.assert_close(found.weight, expected.weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.logits(stored), expected.logits(torch.from_numpy(x)), atol=5e-2, rtol=0)


class Copied(torch.Tensor):
    """Counts how often rows are picked, which copies them."""

    picks = 0

    def __getitem__(self, at: Any) -> torch.Tensor:
        type(self).picks += isinstance(at, torch.Tensor)
        return super().__getitem__(at).as_subclass(torch.Tensor if isinstance(at, torch.Tensor) else Copied)


@pytest.mark.parametrize("rows", [torch.arange(600), torch.arange(50, 450), torch.arange(0, 600, 2)])
@pytest.mark.parametrize("fits", [True, False])
def test_rows_are_picked_once_or_sliced(rows: torch.Tensor, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clusters()
    stored = torch.from_numpy(x).half()
    bare = LogisticRegression(
        stored[rows], torch.from_numpy(labels[rows]), torch.arange(len(rows)), classes=4, device=torch.device("cpu")
    )
    monkeypatch.setattr(logistic, "room", lambda device, processes: 2**30 if fits else 0)
    Copied.picks, moved = 0, []
    made = LogisticRegression(
        stored.as_subclass(Copied),
        torch.from_numpy(labels),
        rows,
        classes=4,
        device=torch.device("cpu"),
        moved=lambda: moved.append(1),
    )
    model = made.fit(0.1)
    torch.testing.assert_close(model.weight.as_subclass(torch.Tensor), bare.fit(0.1).weight)
    assert len(moved) > 5
    if len(rows) == 300 and not fits:
        assert Copied.picks > len(moved)
    else:
        assert Copied.picks == (len(rows) == 300)
    assert made.features.dtype == torch.float16


def test_what_is_not_finite_counts_as_zero() -> None:
    x, labels = clusters()
    spoilt, zeros = x.copy(), x.copy()
    spoilt[3, 2], spoilt[7, 1], zeros[3, 2], zeros[7, 1] = np.nan, np.inf, 0, 0
    torch.testing.assert_close(problem(spoilt, labels).fit(0.1).weight, problem(zeros, labels).fit(0.1).weight)


def test_answers_come_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clusters()
    model, sizes = problem(x, labels).fit(0.1), []
    logits = model.logits(torch.from_numpy(x))
    monkeypatch.setattr(logistic, "_LOGITS", 400)
    wrapped = LogisticModel.logits
    monkeypatch.setattr(LogisticModel, "logits", lambda own, rows: sizes.append(len(rows)) or wrapped(own, rows))
    found = model.answers(torch.from_numpy(x), labels)
    assert sizes == [100] * 6
    assert np.array_equal(found.predicted, logits.argmax(dim=1))
    order = logits.argsort(dim=1, descending=True)
    assert np.array_equal(found.rank, (order == torch.from_numpy(labels)[:, None]).int().argmax(dim=1))
    assert found.within(1) == pytest.approx(100 * (found.predicted == labels).mean())
    assert not LogisticModel(model.weight * np.nan, model.bias).answers(torch.from_numpy(x), labels).within(1)


def test_rows_left_out_have_no_say() -> None:
    x, labels = clusters()
    spoilt = x.copy()
    spoilt[400:] = 1e3
    few = LogisticRegression(
        torch.from_numpy(spoilt),
        torch.from_numpy(labels),
        torch.arange(400),
        classes=4,
        device=torch.device("cpu"),
    )
    torch.testing.assert_close(few.fit(0.1).weight, problem(x[:400], labels[:400]).fit(0.1).weight)


def test_too_few_iterations_are_told() -> None:
    x, labels = clusters()
    assert not problem(x, labels, iterations=2).fit(1.0).converged
    assert problem(x, labels).fit(1.0).converged


def test_c_is_chosen_by_images_set_apart() -> None:
    outcome = Logistic(points=6, c=(1e-4, 10)).run(fake_setting(train=200, test=200, spread=2.0, classes=7))
    assert list(outcome.numbers) == ["top1", "top5", "validation_top1"]
    assert outcome.numbers["top1"] > 60
    curve = outcome.charts[0].series[0].points
    assert len(curve) == 6
    best = max(y for _, y in curve)
    assert outcome.numbers["validation_top1"] == best
    assert outcome.protocol["chosen_c"] == next(x for x, y in curve if y == best)
    assert outcome.protocol["chosen_by"].startswith("21 of the training images")
    assert outcome.per_image is not None
    assert 100 * outcome.per_image.arrays["value"].mean() == pytest.approx(outcome.numbers["top1"])


def test_the_final_fit_is_that_of_scikit_learn_on_all_training_images() -> None:
    from sklearn.linear_model import LogisticRegression as Reference

    setting = fake_setting(train=200, test=300, spread=2.0)
    outcome = Logistic(points=5, c=(1e-3, 1), tolerance=1e-6).run(setting)
    train, test = setting.features(setting.train), setting.features(setting.test)
    reference = Reference(C=outcome.protocol["chosen_c"], tol=1e-8, max_iter=1000).fit(
        train.values.numpy(), train.labels
    )
    assert outcome.numbers["top1"] == pytest.approx(100 * reference.score(test.values.numpy(), test.labels), abs=0.5)


def test_validation_images_choose_where_there_are_some() -> None:
    outcome = Logistic(points=3).run(fake_setting(validation=40))
    assert outcome.protocol["chosen_by"] == "40 validation images"
    assert outcome.protocol["final_fit"] == "120 training images"


def test_a_class_with_a_single_image_is_refused() -> None:
    with pytest.raises(UserError, match="class class3 has a single training image"):
        Logistic().run(fake_setting(train=7, test=4))


def test_the_watch_hears_of_every_step_of_a_fit() -> None:
    class Heard:
        count = 0

        def at(self, doing: str, step: int | None = None, *, patient: bool = False) -> None:
            assert (doing, patient) == ("evaluating", True)
            self.count += 1

    heard, ticks = Heard(), []
    setting = fake_setting(spread=2.0, check=lambda: ticks.append(1))
    watched = dataclasses.replace(setting.world, watch=heard)  # pyright: ignore[reportArgumentType]
    Logistic(points=2).run(dataclasses.replace(setting, world=watched))
    assert heard.count > 5 * len(ticks)


def test_what_is_odd_is_told() -> None:
    outcome = Logistic(points=3, c=(1e-9, 1e-8), iterations=1).run(fake_setting(spread=2.0))
    assert any("had not converged after 1 iterations" in note for note in outcome.notes)
    assert any("is at the end of the range tried" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"c": (0, 1)}, "c: got (0, 1), must be two numbers"),
        ({"c": (1, 0.1)}, "c: got (1, 0.1), must be two numbers"),
        ({"points": 0}, "points: got 0"),
        ({"held_out": 1}, "held_out: got 1, must be between 0 and 1"),
        ({"tolerance": 0}, "tolerance: got 0"),
        ({"iterations": 0}, "iterations: got 0"),
    ],
)
def test_bad_options_are_refused(options: dict, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        Logistic(**options)
