"""What is printed while a run goes on."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from dinotrain.training.display import Display, duration


def row(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "time": 2.0 * step,
        "loss": 8.25,
        "dino_loss": 4.125,
        "ibot_loss": 4.0,
        "koleo_loss": 1.25,
        "lr": 4e-4,
        "grad_norm_backbone": 0.75,
        "grad_norm_dino_head": 0.5,
        "images_per_second": 312.5,
        "data_wait": 0.03,
        "memory_gb": 2.25,
        "loss_scale": None,
        "skipped_steps": 0,
    } | changes


def test_every_row_is_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(100, interactive=False) as display:
        display.update(row(10))
        display.update(row(20))
        display.update({"step": 20, "time": 41.0, "knn_top1": 43.21})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for part in ("20/100", "8.25", "4.125", "4.00e-04", "backbone 0.75", "dino 0.50", "312.5", "3%", "2.25"):
        assert part in lines[1], part
    assert "2 min 40 s left" in lines[1]
    assert "43.2" in lines[2]
    assert "\x1b" not in "".join(lines)


def test_the_live_view_shows_it_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm-256color")
    with Display(100, interactive=True) as display:
        display.banner([("steps", "100")])
        display.update(row(10, loss_scale=1024.0, teacher_entropy=3.5, effective_rank=17.0, skipped_files=2))
        display.message("saved [here]")
        display.warning("something [odd]")
        display.update(row(20))
        display.update({"step": 20, "time": 41.0, "knn_top1": 43.21})
    output = capsys.readouterr().out
    for part in (
        "20 / 100",
        "20.0%",
        "2 min 40 s left",
        "8.2500",
        "4.1250",
        "4.00e-04",
        "backbone 0.75",
        "312.5",
        "3%",
        "2.25",
        "1024",
        "17.00",
        "43.2",
        "saved [here]",
        "something [odd]",
    ):
        assert part in output, part


@pytest.mark.parametrize("interactive", [False, True])
def test_banner_and_table_keep_names_and_values(interactive: bool, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(10, interactive=interactive)
    display.banner([("global batch", "64 = 2 x 32"), ("run", "x" * 30)])
    display.table("k-NN [%]", ["features", "accuracy"], [["trained teacher", "76.5"], ["raw pixels", "33.1"]])
    output = capsys.readouterr().out
    for part in ("global batch", "64 = 2 x 32", "x" * 30, "k-NN [%]", "features", "trained teacher", "76.5", "33.1"):
        assert part in output, part


def test_long_values_stay_on_their_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    Display(10, interactive=False).banner([("run", "/a" * 200)])
    assert "/a" * 200 in capsys.readouterr().out


def test_null_and_missing_values_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(10, interactive=False)
    display.update({"step": 1, "loss": None, "koleo_loss": None, "grad_norm_backbone": None, "data_wait": None})
    display.update({"step": None, "loss": 1.0})
    assert "None" not in capsys.readouterr().out


def test_the_remaining_time_needs_two_rows() -> None:
    display = Display(100, interactive=False)
    assert display.remaining_seconds() is None
    for step in (10, 20):
        display.update(row(step))
    assert display.remaining_seconds() == pytest.approx(160)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (3700, "1 h 01 min"), (100_000, "1 d 3 h")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, dinotrain.training.display; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
