"""Logistic regression on frozen features, the strength of its penalty chosen on images set apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from dinotrain.data.arguments import interval, number, whole
from dinotrain.evaluation.class_names import class_names
from dinotrain.evaluation.confusion import confusion
from dinotrain.evaluation.logistic import Answers, LogisticModel, LogisticRegression
from dinotrain.evaluation.outcome import Chart, Outcome, PerImage, Series
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.splits import held_out


class Path(NamedTuple):
    """Fits for one C after another."""

    c: list[float]
    accuracy: list[float]
    """In percent, of the images to choose by."""
    chosen: int
    """The most accurate, of equally accurate ones that with the strongest penalty."""
    model: LogisticModel | None
    """The chosen one."""
    slow: list[float]
    """The C of fits that did not converge."""


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Multinomial logistic regression, L2 penalty, L-BFGS (DINOv2 paper, section 7.1); features as they are.

    C is chosen on the validation images, or on a part of the training images of every class that the classifier is
    not fitted to; with the best, it is fitted to all training images.

    Args:
        c: smallest and greatest C tried, the inverse strength of the penalty.
        points: how many, at equal steps of its logarithm.
        held_out: share of the training images to choose by, where there are no validation images.
        iterations: of L-BFGS, at most, for each C.
        tolerance: see `LogisticRegression`.
    """

    c: Sequence[float] = (1e-6, 1e5)
    points: int = 45
    held_out: float = 0.1
    iterations: int = 1000
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "c", interval("c", self.c))
        whole("points", self.points, 1)
        whole("iterations", self.iterations, 1)
        if not 0 < number("held_out", self.held_out, 0, 1) < 1:
            raise ValueError(f"held_out: got {self.held_out}, must be between 0 and 1")
        if number("tolerance", self.tolerance, 0) == 0:
            raise ValueError("tolerance: got 0, must be greater")

    def run(self, setting: Setting) -> Outcome:
        """Choose C, fit, and classify the test images."""
        classes = class_names(setting)
        train, test = setting.features(setting.train), setting.features(setting.test)
        rows, choice = self._parts(setting, train)
        with setting.progress("Logistic regression", self.points + 1, "fits") as report:
            path = self._path(setting, self._problem(setting, train, rows, len(classes)), choice, report)
            setting.tick()
            everything = self._problem(setting, train, np.arange(len(train.rows)), len(classes))
            final = everything.fit(path.c[path.chosen], path.model)
            report(self.points + 1)
        verdict = _answered(final, test)
        numbers = {"top1": verdict.within(1)} | ({"top5": verdict.within(5)} if len(classes) > 5 else {})
        numbers["validation_top1"] = path.accuracy[path.chosen]
        assert test.labels is not None
        matrices, tables = confusion(test.labels, verdict.predicted, classes)
        return Outcome(
            numbers=numbers,
            protocol=self._protocol(setting, path, len(train.rows), len(choice.rows)),
            per_image=PerImage(kind="mean", rows=test.rows, arrays={"value": (verdict.rank == 0).astype(np.float32)}),
            notes=self._notes(path, final),
            charts=(_chart(path, numbers["top1"]),),
            matrices=matrices,
            tables=tables,
        )

    def _parts(self, setting: Setting, train: SplitFeatures) -> tuple[Int64[np.ndarray, "fit"], SplitFeatures]:
        """Rows of the training features to fit to, and features to choose by."""
        if setting.validation is not None:
            return np.arange(len(train.rows)), setting.features(setting.validation)
        assert train.labels is not None
        fit, held = held_out(train.labels, self.held_out, setting.seed, setting.train.source.classes)
        return fit, SplitFeatures(train.values[torch.from_numpy(held)], train.rows[held], train.labels[held])

    def _problem(
        self, setting: Setting, features: SplitFeatures, rows: Int64[np.ndarray, "r"], classes: int
    ) -> LogisticRegression:
        return LogisticRegression(
            features.values,
            torch.from_numpy(np.asarray(features.labels)),
            torch.from_numpy(rows),
            classes=classes,
            device=setting.world.device,
            iterations=self.iterations,
            tolerance=self.tolerance,
            processes=setting.world.local_size,
            moved=lambda: setting.world.at("evaluating", patient=True),
        )

    def _path(
        self, setting: Setting, problem: LogisticRegression, choice: SplitFeatures, report: Callable[[int], None]
    ) -> Path:
        """All fits, from the strongest penalty on: each begins where the one before ended, which is close."""
        scale = np.geomspace(self.c[0], self.c[1], self.points).tolist()
        accuracy, slow = [], []
        model = best = None
        for done, c in enumerate(scale):
            setting.tick()
            model = problem.fit(c, model)
            accuracy.append(_answered(model, choice).within(1))
            if not model.converged:
                slow.append(c)
            if best is None or accuracy[-1] > max(accuracy[:-1]):
                best = model
            report(done + 1)
        return Path(scale, accuracy, accuracy.index(max(accuracy)), best, slow)

    def _protocol(self, setting: Setting, path: Path, train: int, choice: int) -> dict[str, Any]:
        shared = "validation images" if setting.validation is not None else "of the training images, not fitted to"
        return {
            "features": "CLS token of the last block, as it is",
            "objective": "cross-entropy and L2 penalty (not of the bias), L-BFGS",
            "c": [*self.c],
            "points": self.points,
            "chosen_c": path.c[path.chosen],
            "chosen_by": f"{choice} {shared}",
            "final_fit": f"{train} training images",
            "iterations": self.iterations,
            "tolerance": self.tolerance,
            "seed": setting.seed,
        }

    def _notes(self, path: Path, final: LogisticModel) -> tuple[str, ...]:
        notes = []
        if path.slow:
            notes.append(
                f"{len(path.slow)} of {self.points} fits (C from {min(path.slow):.3g}) had not converged after "
                f"{self.iterations} iterations"
            )
        if not final.converged:
            notes.append(f"the final fit had not converged after {self.iterations} iterations")
        if len(path.c) > 1 and path.chosen in (0, len(path.c) - 1):
            notes.append(f"the best C, {path.c[path.chosen]:.3g}, is at the end of the range tried")
        return tuple(notes)


def _answered(model: LogisticModel, features: SplitFeatures) -> Answers:
    assert features.labels is not None
    return model.answers(features.values, features.labels)


def _chart(path: Path, test: float) -> Chart:
    ends = ((path.c[0], test), (path.c[-1], test))
    return Chart(
        title="Accuracy by C",
        note=f"C = {path.c[path.chosen]:.3g} was chosen; a greater C is a weaker penalty.",
        x_label="C",
        y_label="accuracy in %",
        log_x=True,
        series=(
            Series(label="validation", points=tuple(zip(path.c, path.accuracy))),
            Series(label="test, with the chosen C", points=ends, dashed=True),
        ),
    )
