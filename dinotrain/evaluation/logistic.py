"""Multinomial logistic regression with an L2 penalty, by L-BFGS on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_CHUNK = 2**16
"""Rows that are computed with at once."""
_SMALLEST_CHANGE = 1e-9
"""Of the mean loss in a step: less than that is lost in the rounding of float32."""
_HELD = 2**30
"""Numbers that are kept on the device, at most: 4 GiB of them."""


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
        """Scores of all classes, on the CPU, in float32."""
        parts = [_floats(part, self.weight.device) @ self.weight.T + self.bias for part in features.split(_CHUNK)]
        return torch.cat(parts).cpu()


class LogisticRegression:
    """Minimises 1/2 ||W||^2 + C * (sum of the cross-entropies), as scikit-learn's; the bias is not penalised.

    The features are taken as they are. That their mean is taken off while solving changes the bias alone, which it is
    put back into, and makes the problem easier.

    Args:
        features: [n, D] in whatever precision they are stored. Up to 4 GiB they are copied to the device in float32;
            more are read in chunks, for every iteration.
        labels: [n] class numbers.
        rows: [r] which of them to fit to.
        classes: how many there are.
        device: to compute on.
        iterations: at most, of each fit.
        tolerance: a fit ends when no component of the gradient, divided by C * r, is larger.
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
    ) -> None:
        self.features, self.labels, self.rows = features, labels[rows].to(device), rows
        self.classes, self.device, self.count = classes, device, len(rows)
        self.iterations, self.tolerance = iterations, tolerance
        self._held: list[Tensor] | None = None
        if self.count * features.shape[1] <= _HELD:
            self._held = list(self._chunks())
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
        for part in self._chunks():
            total += part.double().sum(dim=0)
        self.mean = (total / self.count).float()

    def _chunks(self) -> Iterator[Float[Tensor, "q D"]]:
        if self._held is not None:
            yield from self._held
            return
        for rows in self.rows.split(_CHUNK):
            yield _floats(self.features[rows], self.device)

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
        for x, labels in zip(self._chunks(), self.labels.split(_CHUNK)):
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


def _floats(x: Tensor, device: torch.device) -> Tensor:
    """In float32 on a device; what is not finite counts as zero."""
    return x.to(device).float().nan_to_num(0.0, 0.0, 0.0)
