"""What the latest start of a job has printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinotrain.cluster.record import Record
from dinotrain.cluster.start_logs import LAST_BYTES, StartLogs

KILLED = """\
dinotrain: start 0 on node[0-1], Sat Nov 21
srun: error: node1: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=12.0
srun: error: node0: tasks 0-2: Exited with exit code 70
"""
EXITED = "dinotrain: start 1 on x, y\nsrun: error: node1: task 1: Exited with exit code 1\n"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(path=tmp_path / "0001.json", job="12", logs=str(tmp_path))


def log(record: Record, text: str, rank: int = 0) -> None:
    Path(record.logs, f"12_{rank}_log.out").write_text(text)


def test_only_the_first_to_end_is_to_blame(record: Record) -> None:
    log(record, KILLED)
    assert StartLogs(record).killed() == {3: ("node1", "ended by: Killed")}


def test_earlier_starts_in_the_same_log_do_not_count(record: Record) -> None:
    log(record, KILLED + "dinotrain: start 1 on node[0-1], Sun\nsrun: error: node0: tasks 0,2: Segmentation fault\n")
    assert StartLogs(record).killed() == dict.fromkeys((0, 2), ("node0", "ended by: Segmentation fault"))
    log(record, "srun: error: x: task 1: User defined signal 2\ndinotrain: start 1 on x, y\n")
    assert not StartLogs(record).signalled
    assert StartLogs(record).error == ""


def test_the_last_words_of_a_process_are_those_of_this_start(record: Record) -> None:
    log(record, EXITED)
    log(record, "ValueError: old\ndinotrain: start 1\nTraceback:\nModuleNotFoundError: torch\n\n", rank=1)
    said = "exited with exit code 1; its last words: ModuleNotFoundError: torch"
    assert StartLogs(record).killed() == {1: ("node1", said)}
    log(record, "ValueError: old\ndinotrain: start 1\nslurmstepd: error: *** STEP 12.0 CANCELLED ***\n", rank=1)
    assert StartLogs(record).killed() == {1: ("node1", "Exited with exit code 1")}


def test_the_first_process_has_said_nothing_but_the_mark(record: Record) -> None:
    log(record, EXITED.replace("task 1", "task 0"))
    assert StartLogs(record).killed() == {0: ("node1", "Exited with exit code 1")}


def test_of_a_long_log_the_end_is_enough(record: Record) -> None:
    log(record, KILLED + "dinotrain: start 1 on x, y\n" + "step\n" * LAST_BYTES + EXITED.partition("\n")[2])
    log(record, "Killed\n", rank=1)
    assert StartLogs(record).killed() == {1: ("node1", "exited with exit code 1; its last words: Killed")}


def test_without_a_log_there_is_nothing_to_say(record: Record) -> None:
    logs = StartLogs(record)
    assert (logs.killed(), logs.error, logs.unseen_folder, logs.signalled) == ({}, "", "", False)
