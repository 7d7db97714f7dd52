"""Sharded training equals plain training, on one process and on two."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import tiny_training as training
import torch
from reference import assert_near
from spawn import run_processes
from tiny_training import Options, run_plain, run_sharded

from dinotrain.methods.outcome import Outcome
from dinotrain.training.step import NonFiniteError, train_step


def assert_same(got: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert_near(got["losses"], expected["losses"], tolerance)
    for part in ("norms", "student", "teacher", "centers"):
        assert set(got[part]) == set(expected[part])
        for name, value in expected[part].items():
            assert_near(got[part][name], value, tolerance, tolerance)


def _runs(rank: int, cases: list[Options]) -> list[dict[str, Any]]:
    return [run_sharded(rank, options) for options in cases]


CASES = {
    "sinkhorn": Options(),
    "sinkhorn, shared head": Options(shared=True),
    "centering": Options(targets="centering"),
    "centering, shared head, no local crops": Options(targets="centering", shared=True, local_crops=0),
    "no clipping": Options(clip_grad=None),
    "masks on one process only": Options(masks_on=(0, training.IMAGES // 2)),
    "no iBOT": Options(ibot_weight=0.0),
    "micro-batches": Options(targets="centering", micro_batches=2),
    "blocks as units": Options(activation_checkpointing=True),
    "kept gathered": Options(reshard_after_forward=False),
}
"""Runs without draws and without terms that look within a process."""


@pytest.mark.parametrize("count", [1, 2])
def test_equals_plain_training_on_the_same_global_batch(count: int) -> None:
    results = run_processes(count, _runs, list(CASES.values()))
    for index, (name, options) in enumerate(CASES.items()):
        expected = run_plain(options)
        for rank in range(count):
            print(name, rank)  # shown where the comparison fails
            assert_same(results[rank][index], expected)


def test_replicas_equal_plain_training() -> None:
    """HSDP over a mesh of 2 x 1."""
    cases = [Options(shard_size=1), Options(shard_size=1, targets="centering", micro_batches=2)]
    for result in run_processes(2, _runs, cases):
        for got, options in zip(result, cases):
            assert_same(got, run_plain(options))


def test_wrapped_and_checkpointed_blocks_change_nothing() -> None:
    """Also where stochastic depth draws: recomputation must not draw again."""
    whole = Options(drop_path=0.5, koleo_weight=0.1)
    cases = [
        Options(drop_path=0.5, koleo_weight=0.1, activation_checkpointing=True),
        Options(drop_path=0.5, koleo_weight=0.1, activation_checkpointing=True, wrap_blocks=True),
        Options(drop_path=0.5, koleo_weight=0.1, wrap_blocks=True, reshard_after_forward=False),
    ]
    (results,) = run_processes(1, _runs, cases)
    for got in results:
        assert_same(got, run_plain(whole))
    for first, *others in run_processes(2, _runs, [whole, *cases]):
        for got in others:
            assert_same(got, first)


def _compiled(rank: int, options: Options) -> tuple[dict[str, Any], int]:
    import torch._dynamo.utils

    return run_sharded(rank, options), torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU takes g++")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_change_nothing(checkpointing: bool) -> None:
    """And are compiled, also under activation checkpointing."""
    options = Options(drop_path=0.5, compile_blocks=True, activation_checkpointing=checkpointing)
    ((got, graphs),) = run_processes(1, _compiled, options, seconds=250)
    assert graphs > 0
    assert_same(got, run_plain(Options(drop_path=0.5)), 1e-4)


def test_micro_batches_equal_one_batch() -> None:
    """Where no loss looks across images: centering, without KoLeo."""
    whole = run_plain(Options(targets="centering"))
    for parts in (2, 4):
        assert_same(run_plain(Options(targets="centering", micro_batches=parts)), whole)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_close_to_full(precision: str) -> None:
    options = Options(precision=precision, drop_path=0.3, koleo_weight=0.1)
    (results,) = run_processes(1, _runs, [options])
    expected = run_plain(Options(drop_path=0.3, koleo_weight=0.1))
    assert_near(results[0]["losses"], expected["losses"], 0.0, 0.02 if precision == "bf16" else 0.005)
    for name, value in expected["student"].items():
        assert results[0]["student"][name].dtype == torch.float32
        assert_near(results[0]["student"][name], value, 0.01)


class Poisoned:
    """A method whose loss, and so every gradient, is infinite on one process for one step."""

    def __init__(self, method: Any, rank: int) -> None:
        self.method, self.factor = method, torch.inf if rank == 1 else 1.0

    def targets(self, *args: Any) -> Any:
        return self.method.targets(*args)

    def compare(self, *args: Any) -> Outcome:
        outcome = self.method.compare(*args)
        return outcome._replace(loss=outcome.loss * self.factor)

    def after_step(self) -> None:
        self.method.after_step()


def _snapshot(s: Any) -> dict[str, Any]:
    moments = [s.optimizer.state[p][key] for p in s.student.parameters() for key in ("exp_avg", "exp_avg_sq", "step")]
    return {
        "student": [training.full(p) for p in s.student.parameters()],
        "teacher": [training.full(p) for p in s.ema.parameters()],
        "moments": [training.full(x) for x in moments],
        "centers": [x.clone() for x in s.method.state_dict().values()],
    }


def _poisoned_step(rank: int, options: Options) -> dict[str, Any]:
    """One good step, one where process 1 overflows, and a good one again where that is possible."""
    s = training.state(options, training.sharded)
    at = training.recipe(options).schedules()

    def step(index: int) -> Any:
        parts = training.batches(options, index, rank, 2)
        return train_step([s], parts, at(index), count=len(parts), clip_grad=options.clip_grad, rank=rank)[0]

    step(0)
    before, method, error, skipped = _snapshot(s), s.method, "", False
    s.method = Poisoned(method, rank)  # pyright: ignore
    result = step(1)
    if isinstance(result, NonFiniteError):
        error = str(result)
    else:
        skipped = result.skipped
    s.method = method
    after, scale = _snapshot(s), s.scaler.get_scale()
    last = step(2) if skipped else None
    assert all(p.grad is None for p in s.student.parameters())
    return {
        "before": before,
        "after": after,
        "scale": scale,
        "skipped": skipped,
        "error": error,
        "count": s.skipped_steps,
        "last": None if last is None else (bool(torch.isfinite(last.loss)), last.skipped, _snapshot(s)),
    }


def assert_unchanged(out: dict[str, Any], *parts: str) -> None:
    for part in parts:
        assert all(torch.equal(a, b) for a, b in zip(out["before"][part], out["after"][part], strict=True)), part


@pytest.mark.parametrize("shard_size", [None, 1])
def test_fp16_overflow_on_one_process_is_skipped_by_all(shard_size: int | None) -> None:
    options = Options(precision="fp16", shard_size=shard_size, targets="centering")
    for out in run_processes(2, _poisoned_step, options):
        assert out["skipped"]
        assert (out["scale"], out["count"]) == (2.0**9, 1)
        assert_unchanged(out, "student", "teacher", "moments")
        finite, skipped, end = out["last"]
        assert finite
        assert not skipped
        assert not all(torch.equal(a, b) for a, b in zip(end["student"], out["after"]["student"]))


@pytest.mark.parametrize("options", [Options(targets="centering"), Options(precision="bf16"), Options(shard_size=1)])
def test_overflow_on_one_process_stops_all_before_the_update(options: Options) -> None:
    for out in run_processes(2, _poisoned_step, options):
        assert "not finite at step 1" in out["error"]
        assert_unchanged(out, "student", "teacher", "moments", "centers")
