"""Reading along the log of a job, over its starts."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering_slurm import AnsweringSlurm, make_record

from dinotrain.cluster import following
from dinotrain.cluster.following import LogReader, follow_log, log_path
from dinotrain.cluster.record import Record
from dinotrain.commands import jobs
from dinotrain.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


def append(path: Path, content: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)


# --- the file ---


def test_what_is_new_is_read_once(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "log")
    assert reader.read() == ""
    append(reader.path, "one\n")
    assert reader.read() == "one\n"
    append(reader.path, "two")
    assert [reader.read(), reader.read()] == ["two", ""]


def test_a_character_may_come_in_parts(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "log")
    append(reader.path, "ä".encode()[:1])
    assert reader.read() == ""
    append(reader.path, "ä".encode()[1:] + b"\xff")
    assert reader.read() == "ä\N{REPLACEMENT CHARACTER}"


def test_a_file_that_was_cut_or_replaced_is_begun_anew(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "log", last=10)
    append(reader.path, "first start\n")
    assert reader.read() == ""
    reader.path.write_text("second\n")
    assert reader.read() == "second\n"
    other = tmp_path / "other"
    other.write_text("the third start\n")
    other.rename(reader.path)
    assert reader.read() == "the third start\n"
    reader.path.unlink()
    assert reader.read() == ""


def test_of_a_long_file_only_the_last_lines_are_shown(tmp_path: Path) -> None:
    append(tmp_path / "log", "".join(f"line {number}\n" for number in range(10)))
    reader = LogReader(tmp_path / "log", last=20)
    assert reader.read() == "line 8\nline 9\n"
    assert reader.skipped
    append(reader.path, "line 10\n")
    assert reader.read() == "line 10\n"


# --- the job ---


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnsweringSlurm:
    fake = AnsweringSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    for name, seconds in (("READ_SECONDS", 0.02), ("ASK_SECONDS", 0.05), ("LATE_SECONDS", 0.1)):
        monkeypatch.setattr(following, name, seconds)
    return fake


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return make_record(tmp_path / "run")


class Follower:
    """Follows a job in a thread."""

    def __init__(self, record: Record) -> None:
        self.shown, self.said = "", []
        self.thread = threading.Thread(target=self._follow, args=(record,))
        self.thread.start()

    def _follow(self, record: Record) -> None:
        follow_log(record, show=self._show, say=self.said.append)

    def _show(self, text: str) -> None:
        self.shown += text

    def wait(self, words: str) -> None:
        deadline = time.monotonic() + 10
        while words not in self.shown and words not in self.said:
            assert time.monotonic() < deadline, (words, self.shown, self.said)
            time.sleep(0.01)

    def end(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_a_job_is_followed_from_the_queue_over_a_requeue_to_its_end(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.queue("PENDING", reason="Priority")
    follower = Follower(record)
    follower.wait("job 12 is pending: Priority")
    slurm.queue("RUNNING", nodes="node[0-1]")
    follower.wait("job 12 has begun on node[0-1]")
    append(log_path(record), "step 1\n")
    follower.wait("step 1\n")
    slurm.queue("PENDING", reason="BeginTime", restarts=1)
    follower.wait("job 12 is pending for start 2: BeginTime")
    slurm.queue("RUNNING", nodes="node2", restarts=1)
    append(log_path(record), "step 2\n")
    follower.wait("step 1\nstep 2\n")
    slurm.queue("COMPLETED", restarts=1)
    append(log_path(record), "done\n")
    follower.end()
    assert follower.shown == "step 1\nstep 2\ndone\n"
    assert len(follower.said) == 3


def test_what_comes_late_is_shown_too(slurm: AnsweringSlurm, record: Record) -> None:
    slurm.queue("COMPLETED")
    follower = Follower(record)
    append(log_path(record), "last words\n")
    follower.end()
    assert follower.shown == "last words\n"


# --- the command ---


def test_follow_says_in_the_end_what_became_of_the_job(
    slurm: AnsweringSlurm, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.queue("CANCELLED")
    append(log_path(record), "step 1\n")
    assert jobs.follow(str(tmp_path / "run")) == 0
    assert capsys.readouterr() == ("step 1\n", "job 12 has ended: stopped (cancelled)\n")


def test_follow_takes_one_run_with_a_job(slurm: AnsweringSlurm, record: Record, tmp_path: Path) -> None:
    (tmp_path / "by_hand").mkdir()
    (tmp_path / "by_hand" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"by_hand: was never submitted as a job, so there is no log to follow"):
        jobs.follow(str(tmp_path / "by_hand"))
    with pytest.raises(UserError, match=r"has 2 runs, and one can be followed; expected one such as .*by_hand"):
        jobs.follow(str(tmp_path))


@pytest.fixture
def following_process(slurm: AnsweringSlurm, record: Record, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command on a job that runs, having shown the first line."""
    slurm.queue("RUNNING")
    append(log_path(record), "step 1\n")
    code = f"import sys; from dinotrain.commands.jobs import follow; sys.exit(follow({str(tmp_path / 'run')!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step 1\n"
        yield process
        process.kill()


def test_ctrl_c_ends_following_quietly(following_process: "subprocess.Popen[str]") -> None:
    following_process.send_signal(2)
    _, err = following_process.communicate(timeout=120)
    assert following_process.returncode == 130
    assert err == "\n"


def test_so_does_a_reader_that_has_seen_enough(following_process: "subprocess.Popen[str]", record: Record) -> None:
    assert following_process.stdout is not None
    assert following_process.stderr is not None
    following_process.stdout.close()
    append(log_path(record), "step 2\n")
    assert following_process.wait(10) == 0
    assert following_process.stderr.read() == ""
