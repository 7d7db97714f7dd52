"""How the starts of a job ended, as it is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinotrain.cluster.endings import Ending, add_ending, endings, failures_in_a_row, orderly_restarts

ENDING = Ending(3, "2026-01-01T00:00:00", "failed", "lost", 7, "requeued")


def row(outcome: str, step: int | None, then: str = "requeued") -> dict:
    return {"outcome": outcome, "step": step, "then": then}


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert endings(tmp_path) == []
    for _ in range(2):
        add_ending(tmp_path, ENDING)
    assert [Ending(**each) for each in endings(tmp_path)] == [ENDING, ENDING]


@pytest.mark.parametrize("damage", ['{"restart": 0, "outc', "\0\0\0", "[1]\n", "\n\n", "\xff"])
def test_what_cannot_be_read_is_left_out_and_spoils_nothing(tmp_path: Path, damage: str) -> None:
    (tmp_path / "ended.jsonl").write_bytes(damage.encode("latin-1"))
    assert endings(tmp_path) == []
    add_ending(tmp_path, ENDING)
    assert [Ending(**each) for each in endings(tmp_path)] == [ENDING]


def test_only_restarts_in_order_are_counted() -> None:
    earlier = [row("stopped", 3), row("failed", 4), row("stopped", 6), row("stopped", 6, then="ended")]
    assert orderly_restarts(earlier) == 2


@pytest.mark.parametrize(
    ("earlier", "step", "count"),
    [
        ([], None, 0),
        ([], 5, 0),
        ([row("failed", None)], None, 1),
        ([row("failed", 5)], 5, 1),
        ([row("failed", 5)], 3, 1),
        ([row("failed", 5)], None, 1),
        ([row("failed", 5)], 6, 0),
        ([row("failed", 5), row("failed", 5)], 4, 2),
        ([row("failed", 5), row("failed", 6), row("failed", 6)], 6, 2),
        ([row("failed", 5), row("stopped", 8)], 8, 0),
        ([row("failed", 5), row("stopped", 5)], 5, 1),
        ([row("failed", 5), row("failed", 5, then="ended")], 5, 1),
    ],
)
def test_failures_count_as_long_as_the_run_gets_no_further(earlier: list[dict], step: int | None, count: int) -> None:
    assert failures_in_a_row(earlier, step) == count
