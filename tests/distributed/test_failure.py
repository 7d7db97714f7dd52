"""One text of the reports of all processes: who failed first, and where everybody was."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from dinotrain.distributed.failure import Killed, Report, Reports, compose, is_lost_connection, ranges, write_whole

HOSTS = ["node0", "node0", "node1", "node1"]
COLLECTIVE = '  File "/x/torch/distributed/distributed_c10d.py", line 1, in all_reduce\n    work.wait()\n'
SLEEP = '  File "/x/data/slow.py", line 7, in read\n    time.sleep(9)\n'


def report(process: int, kind: Any = "lost", **more: Any) -> Report:
    facts: dict[str, Any] = {
        "reason": "connection closed",
        "step": 5,
        "doing": "training",
        "stack": COLLECTIVE,
        "time": 100.0 + process,
    }
    return Report(process=process, host=HOSTS[process], kind=kind, **(facts | more))


def of(*reports: Report, **killed: str):
    by_rank = {report.process: report for report in reports}
    return compose(by_rank, HOSTS, {int(rank[1:]): Killed(HOSTS[int(rank[1:])], how) for rank, how in killed.items()})


def test_the_first_error_is_the_reason() -> None:
    late = report(1, "error", reason="ValueError: later", time=200.0)
    failure = of(report(0), late, report(2, "error", reason="ValueError: b", time=99.0), report(3))
    assert failure.reason == "process 2 on node1: ValueError: b"
    assert "processes 0, 3 on node0, node1: lost the connection to another process, step 5, training" in failure.text
    assert failure.step == 5
    assert not failure.for_good


def test_what_the_user_must_put_right_fails_for_good() -> None:
    assert of(*(report(rank, "refused", reason="data.root: gone") for rank in range(4))).for_good
    assert not of(report(0, "refused"), report(1, "error")).for_good
    assert not of(report(0, "fault")).for_good


def test_a_killed_process() -> None:
    failure = of(report(0), report(1), report(2), p3="ended by: Killed")
    assert failure.reason == "process 3 on node1: ended by: Killed"


def test_a_process_that_ended_without_a_word() -> None:
    failure = of(report(0), report(1), report(3))
    assert failure.reason == "process 2 on node1 ended without a word; the others lost the connection"
    assert "process 2 on node1: left no report" in failure.text


def test_of_hanging_processes_the_one_outside_of_a_collective_is_named() -> None:
    waiting = [report(rank, "hang", reason="training at step 5 for more than 5 min") for rank in (0, 1, 3)]
    failure = of(*waiting, report(2, "hang", reason="waiting for images at step 5 for more than 5 min", stack=SLEEP))
    assert failure.reason == ("process 2 on node1 did not go on: waiting for images at step 5 for more than 5 min")
    assert "processes 0-1, 3 on node0, node1: did not go on, step 5, training" in failure.text
    assert "in all_reduce" in failure.text
    assert "in read" in failure.text


def test_of_hanging_processes_the_one_at_an_earlier_step_is_named() -> None:
    failure = of(*(report(rank, "hang", step=4 if rank == 1 else 5) for rank in range(4)))
    assert failure.reason.startswith("process 1 on node0 did not go on")


def test_a_process_that_does_not_even_report_is_the_one_that_hangs() -> None:
    failure = of(*(report(rank, "hang") for rank in (0, 1, 2)))
    assert failure.reason.startswith("process 3 on node1 did not answer any more; the others waited")


def test_a_process_that_stood_still_is_the_one_that_hangs() -> None:
    failure = of(*(report(rank, "hang") for rank in (0, 1, 3)), report(2, stood_still=61.2))
    assert failure.reason == (
        "process 2 on node1 stood still for 61 s (suspended, or without a processor); the others waited"
    )


def test_standing_still_is_no_failure_of_its_own() -> None:
    failure = of(report(0, "error", reason="ValueError: x"), report(2, stood_still=61.2))
    assert failure.reason == "process 0 on node0: ValueError: x"


def test_nothing_is_known() -> None:
    assert compose({}, [], {}, "srun ended with 7").reason == "srun ended with 7"


def test_reports_are_kept_until_an_orderly_end(tmp_path: Path) -> None:
    reports = Reports(tmp_path, "12.0")
    reports.begin(HOSTS)
    reports.add(report(1, "error", reason="ValueError: first"))
    reports.add(report(1, "lost", reason="second"))
    failure = Reports(tmp_path, "12.0").conclude()
    assert failure.reason == "process 1 on node0: ValueError: first"
    text = (tmp_path / "failure.txt").read_text()
    assert "start 12.0: process 1 on node0: ValueError: first" in text
    assert "processes 0, 2-3" in text
    reports.clear()
    assert not (tmp_path / "failures").exists()


def test_the_next_attempt_does_not_see_earlier_reports(tmp_path: Path) -> None:
    Reports(tmp_path, "12.0").add(report(0))
    assert not Reports(tmp_path, "12.1").read()


def test_an_earlier_start_of_the_same_name_does_not_count(tmp_path: Path) -> None:
    earlier = Reports(tmp_path, "29500.0")
    earlier.begin(["gone"])
    earlier.add(report(0, "error", reason="ValueError: yesterday"))
    for path in earlier.folder.iterdir():
        os.utime(path, (1000.0, 1000.0))
    reports = Reports(tmp_path, "29500.0", since=time.time())
    assert not reports.read()
    assert not reports.hosts()
    reports.add(report(0, "refused", reason="data.root: gone"))
    assert reports.conclude().reason == "process 0 on node0: data.root: gone"


def test_many_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    def write(index: int) -> str:
        for _ in range(50):
            write_whole(tmp_path / "file", str(index) * 1000)
            assert len((tmp_path / "file").read_text()) == 1000
        return ""

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[x/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"), True),
        (RuntimeError("Connection closed by peer [127.0.0.1]:46763"), True),
        (dist.DistBackendError("NCCL error: ncclRemoteError: a remote process exiting prematurely"), True),
        (dist.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU detected"), False),
        (dist.DistBackendError("NCCL error: unhandled cuda error, uncorrectable ECC error encountered"), False),
        (RuntimeError("DataLoader timed out after 60 seconds"), False),
        (ValueError("connection closed by peer"), False),
    ],
)
def test_what_tells_of_the_end_of_another_process(error: Exception, lost: bool) -> None:
    assert is_lost_connection(error) == lost


def test_of_hanging_processes_the_one_that_waits_for_images_is_named() -> None:
    # On GPUs the others do not stand in a collective but where they look at a number.
    stack = '  File "/x/dinotrain/training/step.py", line 9, in finish\n    loss.item()\n'
    training = [report(rank, "hang", stack=stack) for rank in (0, 2, 3)]
    failure = of(*training, report(1, "hang", doing="waiting for images", stack=SLEEP))
    assert failure.reason.startswith("process 1 on node0 did not go on")


def test_no_run_folder_no_report(tmp_path: Path) -> None:
    Reports(tmp_path / "absent", "12.0").add(report(0))
    assert not (tmp_path / "absent").exists()


def test_a_damaged_report_does_not_hide_the_others(tmp_path: Path) -> None:
    reports = Reports(tmp_path, "12.0")
    reports.begin(HOSTS)
    reports.add(report(0, "error", reason="ValueError: x"))
    (reports.folder / "process_00001.json").write_text(json.dumps({"process": 1})[:-4])
    assert reports.conclude().reason == "process 0 on node0: ValueError: x"


@pytest.mark.parametrize(("numbers", "text"), [([3], "3"), ([2, 0, 1], "0-2"), ([0, 1, 5, 7, 8], "0-1, 5, 7-8")])
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
