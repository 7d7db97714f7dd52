from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from dinotrain.preparing.tar_writer import RECORD, Member, TarWriter, finished_length

MEMBERS = [Member("a.jpg", b"x" * 512), Member("a.cls", b"7"), Member("b.png", b""), Member("c.jpg", b"y" * 20_000)]


def write(path: Path) -> list[int]:
    writer = TarWriter(path)
    offsets = [writer.add(member) for member in MEMBERS]
    assert writer.finish() == path.stat().st_size
    return offsets


def test_a_tar_is_read_back_by_the_standard_library(tmp_path: Path) -> None:
    offsets = write(tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member, offset, found in zip(MEMBERS, offsets, tar.getmembers(), strict=True):
            assert (found.name, found.size, found.offset_data) == (member.name, len(member.data), offset)
            assert (found.mtime, found.uid, found.gid, found.mode) == (0, 0, 0, 0o644)
            assert data[offset : offset + len(member.data)] == member.data


def test_the_bytes_are_those_of_the_standard_library(tmp_path: Path) -> None:
    write(tmp_path / "x.tar")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in MEMBERS:
            info = tarfile.TarInfo(member.name)
            info.size = len(member.data)
            tar.addfile(info, io.BytesIO(member.data))
    assert (tmp_path / "x.tar").read_bytes() == stream.getvalue()


@pytest.mark.parametrize("position", [0, 512, RECORD - 1024, RECORD - 512, RECORD])
def test_the_length_is_known_beforehand(position: int) -> None:
    length = finished_length(position)
    assert length % RECORD == 0
    assert position + 1024 <= length < position + 1024 + RECORD


def test_what_is_discarded_is_gone(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path / "x.tar")
    writer.add(MEMBERS[0])
    writer.discard()
    writer.discard()
    assert not list(tmp_path.iterdir())
