"""The record of each submission of a run."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dinotrain.cluster.record import Record, claim, latest, next_path, own_job, records
from dinotrain.errors import UserError


def submitted(run_dir: Path, job: str) -> Record:
    record = replace(Record.read(claim(run_dir)), job=job, words=["seed=1"], folder=str(run_dir / "jobs" / "x"))
    record.write()
    return record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = submitted(tmp_path, "12_0")
    assert Record.read(record.path) == record
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["0001.json"]


def test_submissions_are_counted_and_the_last_job_is_found(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert [submitted(tmp_path, str(job)).path.name for job in (7, 8)] == ["0001.json", "0002.json"]
    assert [record.job for record in records(tmp_path)] == ["7", "8"]
    claim(tmp_path)
    found = latest(tmp_path)
    assert found is not None
    assert found.job == "8"
    assert next_path(tmp_path).name == "0004.json"


def test_another_submission_that_is_under_way_is_not_overtaken(tmp_path: Path) -> None:
    path = claim(tmp_path)
    replace(Record.read(path), pid=os.getppid()).write()
    with pytest.raises(UserError, match=r"another submission of .* is under way; try again in a moment"):
        claim(tmp_path)


@pytest.mark.parametrize("old", [True, False])
def test_a_submission_that_broke_off_is_passed_over(tmp_path: Path, old: bool) -> None:
    path = claim(tmp_path)
    # Its process is gone; or nobody knows, on another machine, but it was long ago.
    replace(Record.read(path), pid=2**22 + 1, host="elsewhere" if old else Record.read(path).host).write()
    if old:
        os.utime(path, (0, 0))
    assert claim(tmp_path).name == "0002.json"


def test_of_many_at_the_same_time_each_gets_its_own_number_or_is_refused(tmp_path: Path) -> None:
    found: list[str] = []

    def take() -> None:
        with contextlib.suppress(UserError):
            found.append(claim(tmp_path).name)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found
    assert len(set(found)) == len(found)


def test_a_claim_of_which_nothing_was_written_is_no_record(tmp_path: Path) -> None:
    submitted(tmp_path, "7")
    empty = tmp_path / "jobs" / "0002.json"
    empty.touch()
    os.utime(empty, (0, 0))
    assert [record.job for record in records(tmp_path)] == ["7"]
    assert claim(tmp_path).name == "0003.json"


def test_a_job_says_itself_who_it_is_if_its_submitter_did_not_come_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "0001"
    record = replace(Record.read(claim(tmp_path)), folder=str(folder))
    record.write()
    folder.mkdir()
    assert record.known_as("12_1").job == "12_1"
    assert [each.job for each in records(tmp_path)] == ["12_1"]
    replace(record, job="12").write()
    assert Record.read(record.path).known_as("13").job == "12"


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}, "7_0"),
        ({"SUBMITIT_LOCAL_JOB_ID": "4711", "SLURM_JOB_ID": "7"}, "4711"),
    ],
)
def test_which_job_a_process_is_part_of(environ: dict[str, str], job: str) -> None:
    assert own_job(environ) == job


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 99}), json.dumps({"job": "1"})])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    path = claim(tmp_path)
    path.write_text(text)
    with pytest.raises(UserError, match=str(path)):
        records(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").touch()
    with pytest.raises(UserError, match=r"output_dir: can't write to .*jobs"):
        claim(tmp_path)
