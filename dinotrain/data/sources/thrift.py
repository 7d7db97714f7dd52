"""Structures in Thrift's compact protocol, which the footers and page headers of Parquet files are written in."""

from __future__ import annotations

import struct
from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

Fields = dict[int, Any]
"""Values by field number: numbers, truth values, bytes, lists and structures."""


def read_struct(data: bytes, start: int = 0) -> tuple[Fields, int]:
    """A structure, and the place after it; maps in it are refused, for Parquet has none.

    See "Thrift compact protocol encoding" in the documentation of Apache Thrift.

    Raises:
        ValueError: this is no such structure.
        IndexError: it goes on after the end of `data`.
    """
    fields: Fields = {}
    place, number = start, 0
    while head := data[place]:
        place += 1
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, place = _signed(data, place)
        fields[number], place = _value(data, place, kind)
    return fields, place + 1


def _value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, place
    if kind in (_I16, _I32, _I64):
        return _signed(data, place)
    if kind == _BINARY:
        size, place = read_varint(data, place)
        return _taken(data, place, size), place + size
    if kind == _STRUCT:
        return read_struct(data, place)
    if kind in (_LIST, _SET):
        return _list(data, place)
    if kind == _BYTE:
        return data[place], place + 1
    if kind == _DOUBLE:
        return struct.unpack("<d", _taken(data, place, 8))[0], place + 8
    raise ValueError(f"field of type {kind}, which Parquet has none of")


def _list(data: bytes, place: int) -> tuple[list[Any], int]:
    size, kind = data[place] >> 4, data[place] & 15
    place += 1
    if size == 15:
        size, place = read_varint(data, place)
    values: list[Any] = []
    for _ in range(size):
        if kind in (_TRUE, _FALSE):
            value, place = data[place] == _TRUE, place + 1
        else:
            value, place = _value(data, place, kind)
        values.append(value)
    return values, place


def _taken(data: bytes, place: int, size: int) -> bytes:
    if place + size > len(data):
        raise IndexError("it goes on after the end")
    return data[place : place + size]


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, the lowest first, and the place after it."""
    value, shift = 0, 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("number of more than 64 bits")


def _signed(data: bytes, place: int) -> tuple[int, int]:
    """Zigzag: 0, -1, 1, -2 ... are written as 0, 1, 2, 3 ..."""
    value, place = read_varint(data, place)
    return value >> 1 ^ -(value & 1), place
