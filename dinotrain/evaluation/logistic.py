"""Multinomial logistic regression with an L2 penalty, by L-BFGS on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dinotrain.evaluation.finite import finite
from dinotrain.evaluation.room import room

_CHUNK = 2**16
"""Rows that are computed with at once, at most."""
_LOGITS = 2**26
"""Logits that are computed at once, at most: with many classes, of fewer rows."""
_SMALLEST_CHANGE = 1e-9
"""Of the mean loss in a step: less than that is lost in the rounding of float32."""


class Answers(NamedTuple):
    """What a classifier says of each image."""

    predicted: Int64[np.ndarray, "m"]
    rank: Int64[np.ndarray, "m"]
    """Place of the true class, from 0; the last one where a score is not a number."""

    def within(self, places: int) -> float:
        """Percent of the images whose class has one of the first places (top-1, top-5)."""
        return 100.0 * float((self.rank < places).mean())


@dataclass(frozen=True)
class LogisticModel:
    """A linear classifier.

    Args:
        weight: [C, D].
        bias: [C].
        converged: whether it was found before the iterations were used up.
    """

    weight: Tensor
    bias: Tensor
    converged: bool = True

    @torch.no_grad()
    def logits(self, features: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """Scores of all classes, in float32, on the classifier's device."""
        return finite(features, self.weight.device) @ self.weight.T + self.bias

    def answers(self, features: Float[Tensor, "m D"], labels: Int64[np.ndarray, "m"]) -> Answers:
        """The most likely class of each image, and where its own stands; some images at a time."""
        truth, size = torch.from_numpy(labels), _rows_at_once(len(self.bias))
        predicted, rank = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
        for x, own in zip(features.split(size), truth.split(size)):
            logits = self.logits(x)
            score = logits.gather(1, own.to(logits.device).unsqueeze(1))
            predicted.append(logits.argmax(dim=1).cpu())
            rank.append((~(logits <= score)).sum(dim=1).cpu())
        return Answers(torch.cat(predicted).numpy(), torch.cat(rank).numpy())


class LogisticRegression:
    """Minimises 1/2 ||W||^2 + C * (sum of the cross-entropies), as scikit-learn's; the bias is not penalised.

    The features are taken as they are. That their mean is taken off while solving changes the bias alone, which it is
    put back into, and makes the problem easier.

    Args:
        features: [n, D] in whatever precision they are stored, in which they are kept on the device if they fit into
            half of its free memory; else they are read in chunks, for every iteration.
        labels: [n] class numbers.
        rows: [r] which of them to fit to.
        classes: how many there are.
        device: to compute on.
        iterations: at most, of each fit.
        tolerance: a fit ends when no component of the gradient, divided by C * r, is larger.
        processes: of this machine, that fit the same at the same time.
        moved: called again and again while fitting, so that others know that it goes on.
    """

    def __init__(
        self,
        features: Float[Tensor, "n D"],
        labels: Int64[Tensor, "n"],
        rows: Int64[Tensor, "r"],
        *,
        classes: int,
        device: torch.device,
        iterations: int = 1000,
        tolerance: float = 1e-5,
        processes: int = 1,
        moved: Callable[[], object] = lambda: None,
    ) -> None:
        self.labels = labels[rows].to(device)
        self.classes, self.device, self.count = classes, device, len(rows)
        self.iterations, self.tolerance, self.moved = iterations, tolerance, moved
        self._size = _rows_at_once(classes)
        self.features, self.rows = self._held(features, rows, processes)
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
        all_finite = torch.ones((), dtype=torch.bool, device=device)
        for at in self._slices():
            part = self._stored(at).to(device)
            all_finite &= part.isfinite().all()
            total += finite(part, device).double().sum(dim=0)
        self._finite = bool(all_finite)
        self.mean = (total / self.count).float()

    def _held(self, features: Tensor, rows: Tensor, processes: int) -> tuple[Tensor, Tensor | None]:
        """The rows alone, on the device if there is room; or all, where they are, and which rows count."""
        start, adjoining = int(rows[0]), bool((rows.diff() == 1).all())
        if adjoining:
            features = features[start : start + self.count]
            if features.device == self.device:
                return features, None
        if self.count * features[:1].nbytes > room(self.device, processes):
            return features, None if adjoining else rows
        held = torch.empty(self.count, *features.shape[1:], dtype=features.dtype, device=self.device)
        for at in self._slices():
            held[at] = features[at] if adjoining else features[rows[at]]
        return held, None

    def _slices(self) -> Iterator[slice]:
        return (slice(start, start + self._size) for start in range(0, self.count, self._size))

    def _stored(self, at: slice) -> Float[Tensor, "q D"]:
        return self.features[at if self.rows is None else self.rows[at]]

    def _chunks(self) -> Iterator[Float[Tensor, "q D"]]:
        for at in self._slices():
            part = self._stored(at)
            # Where nothing has to be replaced, features in float32 on the device are used without a copy.
            yield part.to(self.device).float() if self._finite else finite(part, self.device)

    @torch.no_grad()
    def fit(self, c: float, start: LogisticModel | None = None) -> LogisticModel:
        """The classifier for one C (greater is a weaker penalty).

        Args:
            start: where to begin: the solution for a C nearby.
        """
        shape = (self.classes, len(self.mean) + 1)
        parameter = torch.nn.Parameter(torch.zeros(shape, device=self.device))
        if start is not None:
            parameter[:, :-1] = start.weight
            parameter[:, -1] = start.bias + start.weight @ self.mean
        penalty = 1 / (c * self.count)
        optimizer = torch.optim.LBFGS(
            [parameter],
            max_iter=self.iterations,
            max_eval=2 * self.iterations,
            history_size=20,
            tolerance_grad=self.tolerance,
            tolerance_change=_SMALLEST_CHANGE,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            loss, parameter.grad = self._loss(parameter.detach(), penalty)
            return loss

        optimizer.step(closure)
        weight = parameter[:, :-1].detach().clone()
        bias = parameter[:, -1].detach() - weight @ self.mean
        return LogisticModel(weight, bias, converged=optimizer.state[parameter]["n_iter"] < self.iterations)

    @torch.no_grad()
    def _loss(self, parameter: Float[Tensor, "C E"], penalty: float) -> tuple[float, Float[Tensor, "C E"]]:
        """Mean cross-entropy and penalty, and their gradient; the last column is the bias of the centred features."""
        weight = parameter[:, :-1]
        bias = parameter[:, -1] - weight @ self.mean
        gradient = torch.zeros_like(parameter)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for x, labels in zip(self._chunks(), self.labels.split(self._size)):
            self.moved()
            logs = torch.log_softmax(torch.addmm(bias, x, weight.T), dim=1)
            loss -= logs.gather(1, labels.unsqueeze(1)).double().sum()
            errors = logs.exp_()
            errors[torch.arange(len(x), device=self.device), labels] -= 1
            gradient[:, :-1] += errors.T @ x
            gradient[:, -1] += errors.sum(dim=0)
        gradient[:, :-1] -= torch.outer(gradient[:, -1], self.mean)
        gradient /= self.count
        gradient[:, :-1] += penalty * weight
        return float(loss / self.count + 0.5 * penalty * weight.double().square().sum()), gradient


def _rows_at_once(classes: int) -> int:
    return max(min(_CHUNK, _LOGITS // classes), 1)
