"""Cached arrays: made once, by one process, again when they no longer hold, and never in the way."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from dinotrain.data.storage import table
from dinotrain.data.storage.table import cache_folder, cached

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DINOTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Counts how often it builds."""

    def __init__(self, *sizes: int) -> None:
        self.calls = 0
        self._sizes = sizes or (5,)

    def __call__(self) -> Arrays:
        self.calls += 1
        return {f"a{size}": np.arange(size) + self.calls for size in self._sizes}


def _always(arrays: Arrays) -> bool:
    return True


def _files(folder: Path, pattern: str = "*.arrays") -> list[Path]:
    return sorted(folder.rglob(pattern))


def test_built_once_for_each_kind_and_key() -> None:
    builder = Builder()
    for _ in range(2):
        assert cached("kind", "key", builder, _always)["a5"].tolist() == [1, 2, 3, 4, 5]
    assert builder.calls == 1
    cached("kind", "other", builder, _always)
    cached("other", "key", builder, _always)
    assert builder.calls == 3


def test_arrays_come_back_as_they_were_and_read_only() -> None:
    made = {
        "empty": np.zeros(0, np.uint8),
        "flags": np.array([[True, False], [False, True]]),
        "strided": np.arange(20, dtype=np.float32)[::3],
        "none by 3": np.zeros((0, 3), np.int64),
        "bytes": np.frombuffer(b"x" * 1001, np.uint8),
    }
    for _ in range(2):
        found = cached("kind", "k\udcffy\n\0", lambda: made, _always)
        assert found.keys() == made.keys()
        for name, array in found.items():
            assert array.dtype == made[name].dtype
            np.testing.assert_array_equal(array, made[name])
            assert not array.flags.writeable
    assert cached("kind", "nothing", dict, _always) == {}


def test_built_again_when_no_longer_valid_while_the_old_arrays_stay_readable(folder: Path) -> None:
    builder = Builder()
    first = cached("kind", "key", builder, _always)
    for _ in range(5):
        cached("kind", "key", builder, lambda arrays: arrays["a5"][0] > 100)
    assert builder.calls == 6
    assert cached("kind", "key", builder, _always)["a5"][0] == 6
    assert first["a5"][0] == 1
    assert len(_files(folder)) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: bytes(len(data)),
        lambda data: data.replace(b"<i8", b"|O8"),
        lambda data: data.replace(b'"arrays"', b'"arroys"'),
        lambda data: data.replace(b"[5]", b"[9]"),
        lambda data: data.replace(b'"a5"', b'"b5"'),
    ],
)
def test_damaged_files_are_made_anew(folder: Path, damage) -> None:
    builder = Builder()
    cached("kind", "key", builder, lambda arrays: len(arrays["a5"]) == 5)
    (file,) = _files(folder)
    data = file.read_bytes()
    assert damage(data) != data
    file.write_bytes(damage(data))
    for _ in range(2):
        assert cached("kind", "key", builder, lambda arrays: len(arrays["a5"]) == 5)["a5"].tolist() == [2, 3, 4, 5, 6]
    assert builder.calls == 2


def test_without_a_place_to_write_a_warning_and_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DINOTRAIN_CACHE", str(tmp_path / "file"))
    builder = Builder()
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"can't keep .*Not a directory.*DINOTRAIN_CACHE"):
            assert len(cached("kind", "key", builder, _always)["a5"]) == 5
    assert builder.calls == 2


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(table.os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(cached("kind", "key", Builder(), _always)["a5"]) == 5
    assert [file.name for file in _files(folder, "*") if file.is_file()] == ["lock"]


def test_errors_of_the_builder_are_passed_on() -> None:
    def fail() -> Arrays:
        raise PermissionError("mine")

    with pytest.raises(PermissionError, match="mine"):
        cached("kind", "key", fail, _always)
    assert len(cached("kind", "key", Builder(), _always)) == 1


def _build_slowly(log: Path, start) -> None:
    def build() -> Arrays:
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.3)
        return {"a": np.arange(3)}

    start.wait()
    assert cached("kind", "key", build, _always)["a"].tolist() == [0, 1, 2]
    with open(log, "a") as file:
        file.write("had\n")


def test_one_process_builds_and_the_others_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, log = context.Event(), tmp_path / "log"
    processes = [context.Process(target=_build_slowly, args=(log, start)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text().split() == ["built", *["had"] * 4]


def test_what_nobody_used_for_long_is_removed(folder: Path) -> None:
    builder = Builder()
    for key in ("old", "used"):
        cached("kind", key, builder, _always)
    for file in _files(folder):
        os.utime(file, (0, 0))
    cached("kind", "used", builder, _always)
    cached("kind", "new", builder, _always)
    assert builder.calls == 3
    cached("kind", "used", builder, _always)
    assert builder.calls == 3
    assert len(_files(folder)) == 2


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DINOTRAIN_CACHE", "~/mine")
    assert cache_folder() == "/home/me/mine"
    monkeypatch.delenv("DINOTRAIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_folder() == "/scratch/dinotrain"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == "/home/me/.cache/dinotrain"
