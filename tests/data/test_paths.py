"""Tables of paths: small, exact, printable."""

from __future__ import annotations

import tracemalloc

import pytest

from dinotrain.data.paths import PathTable, printable


def test_any_bytes_come_back() -> None:
    paths = [b"a", b"", b"caf\xe9/\xff.png", "größe".encode()]
    table = PathTable(paths)
    assert [table[index] for index in range(len(table))] == paths
    for index in (-1, 4):
        with pytest.raises(IndexError):
            table[index]
    assert table.digest() != PathTable([b"", b"a", *paths[2:]]).digest()
    assert len(PathTable([])) == 0


def test_memory_is_the_text_and_one_number_a_path() -> None:
    tracemalloc.start()
    table = PathTable(b"n%08d/image_%08d.jpg" % (number // 1000, number) for number in range(100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 100_000
    assert size < 100_000 * (28 + 8) * 1.25


def test_printable_is_one_line_of_text() -> None:
    assert printable(b"a b/c.png") == "a b/c.png"
    assert printable(b"a\tb\nc\xff") == r"a\tb\nc\xff"
    assert printable("größe\u2028".encode()) == r"größe\u2028"
