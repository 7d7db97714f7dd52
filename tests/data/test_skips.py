"""The list of broken samples and its limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinotrain.data.batch import Skipped
from dinotrain.data.skips import SkipLog
from dinotrain.errors import UserError


def test_each_sample_is_listed_once(tmp_path: Path) -> None:
    file = tmp_path / "skipped.txt"
    log = SkipLog(file, length=1000, max_fraction=0.01)
    assert not file.exists()
    assert log.add([]) == 0
    assert log.add([Skipped("a", "empty file"), Skipped("b", "tab\there\nand line"), Skipped("a", "empty file")]) == 2
    assert log.add([Skipped("a", "empty file")]) == 0
    assert len(log) == 2
    assert file.read_text() == "a\tempty file\nb\ttab here and line\n"


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "skipped.txt"
    SkipLog(file, length=1000, max_fraction=0.01).add([Skipped("a", "x"), Skipped("größe", "y")])
    with file.open("a") as stream:
        stream.write("half a li")  # as a kill may leave it
    log = SkipLog(file, length=1000, max_fraction=0.01)
    assert len(log) == 2
    assert log.add([Skipped("größe", "y"), Skipped("c", "z")]) == 1
    assert file.read_text() == "a\tx\ngröße\ty\nc\tz\n"


def test_the_limit(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.txt", length=200, max_fraction=0.01)
    log.add([Skipped("a", "x"), Skipped("b", "x")])
    with pytest.raises(
        UserError, match=r"data\.max_broken: 3 of 200 .*more than 1\.00%.*c: cut.*skipped\.txt"
    ) as caught:
        log.add([Skipped("c", "cut")])
    assert "\n" not in str(caught.value)
    assert (tmp_path / "skipped.txt").read_text().count("\n") == 3
    again = SkipLog(tmp_path / "skipped.txt", length=200, max_fraction=0.01)
    with pytest.raises(UserError):
        again.add([Skipped("a", "x")])
    SkipLog(tmp_path / "skipped.txt", length=200, max_fraction=0.02).add([Skipped("a", "x")])


def test_a_single_one_is_always_allowed(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.txt", length=10, max_fraction=0)
    log.add([Skipped("a", "x")])
    with pytest.raises(UserError):
        log.add([Skipped("b", "x")])


@pytest.mark.parametrize(
    ("length", "fraction", "name"), [(0, 0.1, "length"), (5, 1.5, "max_broken"), (5, -1, "max_broken")]
)
def test_values_are_checked(tmp_path: Path, length: int, fraction: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SkipLog(tmp_path / "skipped.txt", length=length, max_fraction=fraction)
