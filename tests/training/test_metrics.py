"""The rows of a run on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinotrain.errors import UserError
from dinotrain.training.metrics import MetricsFile


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "run" / "metrics.jsonl")


def filled(metrics: MetricsFile, steps: int) -> MetricsFile:
    for step in range(steps + 1):
        metrics.append({"step": step, "loss": 10.0 - step})
    return metrics


def test_rows_come_back_as_they_went_in(metrics: MetricsFile) -> None:
    row = {"step": 1, "loss": 0.1 + 0.2, "warning": "Zeile\nzwei: ä", "loss_scale": None}
    metrics.append(row)
    metrics.append({"step": 2})
    assert metrics.rows() == [row, {"step": 2}]
    assert metrics.path.read_text().count("\n") == 2


def test_there_is_nothing_before_the_first_row(metrics: MetricsFile) -> None:
    assert metrics.rows() == []
    assert metrics.last("loss") is None
    metrics.truncate(3)
    assert not metrics.path.exists()


def test_any_reader_takes_what_is_not_finite(metrics: MetricsFile) -> None:
    metrics.append({"step": 1, "loss": float("nan"), "lr": float("inf"), "dino_loss": -float("inf")})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(metrics.path.read_text(), parse_constant=refuse) == {
        "step": 1,
        "loss": None,
        "lr": None,
        "dino_loss": None,
    }


def test_a_line_cut_by_a_kill_is_dropped(metrics: MetricsFile) -> None:
    filled(metrics, 3)
    content = metrics.path.read_bytes()
    metrics.path.write_bytes(content[:-5])
    assert [row["step"] for row in metrics.rows()] == [0, 1, 2]
    again = MetricsFile(metrics.path)
    again.append({"step": 3, "loss": 7.0})
    assert metrics.path.read_bytes() == content


def test_a_resumed_run_writes_the_file_of_an_uninterrupted_one(metrics: MetricsFile, tmp_path: Path) -> None:
    whole = filled(MetricsFile(tmp_path / "whole.jsonl"), 6)
    filled(metrics, 4)
    resumed = MetricsFile(metrics.path)
    resumed.truncate(2)
    for step in range(3, 7):
        resumed.append({"step": step, "loss": 10.0 - step})
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert [path.name for path in metrics.path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_fresh_start_drops_everything(metrics: MetricsFile) -> None:
    filled(metrics, 2).truncate(-1)
    assert metrics.rows() == []


def test_the_last_value_that_is_one(metrics: MetricsFile) -> None:
    metrics.append({"step": 1, "knn_top1": 40.0})
    metrics.append({"step": 2, "knn_top1": None})
    metrics.append({"step": 3, "loss": 1.0})
    assert metrics.last("knn_top1") == 40.0
    assert metrics.last("step") == 3


def test_a_damaged_line_is_named(metrics: MetricsFile) -> None:
    filled(metrics, 2)
    metrics.path.write_bytes(metrics.path.read_bytes().replace(b'"step": 1', b'"step" 1'))
    with pytest.raises(UserError, match="line 2"):
        metrics.rows()
