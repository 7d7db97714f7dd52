"""Text files that list images, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from dinotrain.data.sources.list_rows import Rows, numbered

_CHUNK = 2**24
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TAB, _LINE_FEED, _RETURN = b"\t\n\r"
_SPACES = np.frombuffer(b" \t\n\r\v\f", np.uint8)


def read_lines(file: BufferedIOBase, numbers: dict[bytes, int]) -> Iterator[Rows]:
    """A path on each line, then a tab and its label if it has one. Empty lines are left out.

    Args:
        file: the list.
        numbers: number of each label so far; new ones are added.
    """
    for chunk in whole_lines(file):
        yield _parse(chunk, numbers)


def whole_lines(file: BufferedIOBase) -> Iterator[bytes]:
    """The file in pieces that end with the end of a line."""
    rest = file.read(len(_BYTE_ORDER_MARK)).removeprefix(_BYTE_ORDER_MARK)
    while data := file.read(_CHUNK):
        lines, line_end, rest_of_line = (rest + data).rpartition(b"\n")
        rest = rest_of_line
        if line_end:
            yield lines + line_end
    if rest:
        yield rest + b"\n"


def _parse(chunk: bytes, numbers: dict[bytes, int]) -> Rows:
    data = np.frombuffer(chunk, np.uint8)
    line_feeds = np.flatnonzero(data == _LINE_FEED)
    starts = np.concatenate([[0], line_feeds[:-1] + 1])
    ends = _before_returns(data, starts, line_feeds)
    # Of each line the first tab, or a later line's.
    tabs = np.append(np.flatnonzero(data == _TAB), len(data))
    tabs = tabs[np.searchsorted(tabs, starts)]
    path_ends = np.minimum(tabs, ends)
    filled = _filled(chunk, data, starts, path_ends)
    starts, ends, tabs, path_ends = starts[filled], ends[filled], tabs[filled], path_ends[filled]
    labels = None
    if (tabs < ends).any():
        labels = numbered([chunk[tab + 1 : end].strip() for tab, end in zip(tabs.tolist(), ends.tolist())], numbers)
    return Rows(_between(data, starts, path_ends), path_ends - starts, labels)


def _before_returns(
    data: UInt8[np.ndarray, "bytes"], starts: Int64[np.ndarray, "n"], ends: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "n"]:
    """Ends of lines without the carriage returns there."""
    while (returns := (ends > starts) & (data[ends - 1] == _RETURN)).any():
        ends = ends - returns
    return ends


def _filled(
    chunk: bytes, data: UInt8[np.ndarray, "bytes"], starts: Int64[np.ndarray, "n"], ends: Int64[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Which paths are more than white space."""
    filled = ends > starts
    for index in np.flatnonzero(filled & np.isin(data[starts], _SPACES)):
        filled[index] = bool(chunk[starts[index] : ends[index]].strip())
    return filled


def _between(
    data: UInt8[np.ndarray, "bytes"], starts: Int64[np.ndarray, "n"], ends: Int64[np.ndarray, "n"]
) -> UInt8[np.ndarray, "kept"]:
    """The bytes from each start to its end, one after another; no end is another's start."""
    edges = np.zeros(len(data) + 1, np.int8)
    edges[starts], edges[ends] = 1, -1
    return data[np.add.accumulate(edges, dtype=np.int8)[:-1].view(bool)]
