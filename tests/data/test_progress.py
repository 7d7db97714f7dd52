"""The line that shows how far a long job has come."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from dinotrain.data.progress import progress


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    clock = Clock()
    monkeypatch.setattr("dinotrain.data.progress.time", SimpleNamespace(monotonic=clock))
    return clock


def _run(clock: Clock, seconds: float, total: int | None = None) -> None:
    with progress("Listing images", total) as report:
        for done in range(int(seconds * 10)):
            clock.now += 0.1
            report(1000 * done)


def test_quick_jobs_say_nothing(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    _run(clock, 0.9)
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_a_line_now_and_then(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    _run(clock, 25, total=300_000)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Listing images: ")
    assert lines[0].endswith(" of 300,000 files in 1 s")


@pytest.mark.parametrize("total", [None, 50_000])
def test_a_terminal_gets_one_line_and_no_thread(
    clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, total: int | None
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    threads = threading.active_count()
    with progress("Listing images", total) as report:
        clock.now += 2
        report(41_234)
        assert threading.active_count() == threads
        assert "41,234" in capfd.readouterr().err
    assert "\x1b[2K" in capfd.readouterr().err  # erased


def test_other_processes_of_the_machine_are_silent(
    clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    _run(clock, 30)
    assert capfd.readouterr() == ("", "")
