"""One training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinotrain.data.batch import Batch
from dinotrain.distributed.collectives import max_over_processes
from dinotrain.distributed.parallelize import gradient_sync
from dinotrain.methods.self_distillation import Observed, Terms
from dinotrain.optim.recipe import StepValues, set_step
from dinotrain.training.state import TrainState

SMALLEST_SCALE = 2.0**-14
"""A loss scale below this means that every step overflows, which no scale can cure."""


class NonFiniteError(RuntimeError):
    """The loss or a gradient is infinite or not a number; nothing has been updated."""


class StepResult(NamedTuple):
    """What a step did; tensors stay on the device until somebody looks."""

    loss: Tensor
    terms: Terms
    observed: Observed
    grad_norms: dict[str, Tensor]
    """Before clipping, by child of the student."""
    skipped: bool
    """The loss scale was too large: no update (fp16 only)."""


def train_step(
    state: TrainState, batches: Iterable[Batch], values: StepValues, *, count: int, clip_grad: float | None, rank: int
) -> StepResult:
    """Forward and backward over `count` micro-batches, one in memory at a time; clip, check, update, move the teacher.

    Raises:
        NonFiniteError: before the update, on all processes, where there is no loss scale to lower.
    """
    set_step(state.optimizer, values)
    losses, terms = [], []
    outcome = None
    for index, batch in enumerate(batches):
        torch.manual_seed(draw_seed(state.seed, state.step, index, rank))
        with gradient_sync(state.student, index == count - 1):
            outcome = state.method(state.student, state.teacher, batch, values.teacher_temperature)
            state.scaler.scale(outcome.loss / count).backward()
        losses.append(outcome.loss.detach())
        terms.append(outcome.terms)
    assert outcome is not None
    loss = torch.stack(losses).mean()
    state.scaler.unscale_(state.optimizer)
    norms = clip_gradients(state.student, clip_grad)
    skipped = _update(state, loss, norms)
    state.method.after_step()
    if not skipped:
        state.average.update(values.momentum)
    state.skipped_steps += skipped
    state.step += 1
    mean_terms = Terms(*(torch.stack(column).mean() for column in zip(*terms)))
    return StepResult(loss, mean_terms, outcome.observed, norms, skipped)


def draw_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """A seed for the draws of one forward pass (stochastic depth): different everywhere, the same after a resume."""
    mixed = 0
    for part in (seed, step, micro, rank):
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 25)
    return mixed


def clip_gradients(networks: nn.Module, limit: float | None) -> dict[str, Tensor]:
    """Clip the gradients of every child by its own global norm; returns the norms before."""
    norms = {}
    for name, child in networks.named_children():
        norm = nn.utils.clip_grad_norm_(child.parameters(), torch.inf if limit is None else limit)
        norms[name] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore
    return norms


def _update(state: TrainState, loss: Tensor, norms: dict[str, Tensor]) -> bool:
    """The optimizer's update, on all processes or on none; returns whether it was skipped."""
    if state.scaler.is_enabled():
        skipped = _update_scaled(state)
        state.optimizer.zero_grad()
        return skipped
    finite = torch.isfinite(torch.stack([loss, *norms.values()])).all()
    if max_over_processes((~finite).float()) > 0:
        state.optimizer.zero_grad()
        raise NonFiniteError(f"the loss or a gradient norm is not finite at step {state.step}")
    state.optimizer.step()
    state.optimizer.zero_grad()
    return False


def _update_scaled(state: TrainState) -> bool:
    scaler = state.scaler
    # Reduced over shards by DTensor itself; over replicas and for plain tensors by this.
    for found in scaler._found_inf_per_device(state.optimizer).values():
        max_over_processes(found)
    before = scaler.get_scale()
    scaler.step(state.optimizer)
    scaler.update()
    after = scaler.get_scale()
    if after < SMALLEST_SCALE:
        raise NonFiniteError(f"every step overflows in fp16, down to a loss scale of {after:g} at step {state.step}")
    return after < before
