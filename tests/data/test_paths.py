"""Tables of paths: small, exact, printable."""

from __future__ import annotations

import tracemalloc

import numpy as np
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


def test_a_table_of_arrays_shares_them() -> None:
    table = PathTable([b"a", b"", b"b\xff/c"])
    again = PathTable.of_arrays(table.block, table.ends)
    assert list(again) == [b"a", b"", b"b\xff/c"]
    assert np.shares_memory(again.block, table.block)
    assert again.digest() == table.digest()
    cached = table.for_cache("x") | PathTable([b"z"]).for_cache("y")
    assert list(PathTable.from_cache(cached, "x")) == list(table)
    assert list(PathTable.from_cache(cached, "y")) == [b"z"]
    for block, ends in ((table.block[1:], table.ends), (table.block, table.ends[:0]), (table.block, table.ends[1:])):
        with pytest.raises(ValueError, match="ends"):
            PathTable.of_arrays(block, ends)


def test_the_digest_stays_the_same_in_later_versions() -> None:
    assert PathTable([b"a", b"", b"ccc"]).digest() == "72877a542aba6dba"
