"""The index of a tar shard: which samples it holds, where, with which labels, and what damaged ones come to."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dinotrain.data.paths import PathTable
from dinotrain.data.sources.tar_index import Scan, TarIndex, index_name, scan_tar

Files = Sequence[tuple[str | bytes, bytes]]


def _tar(files: Files, form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _scan(data: bytes) -> Scan:
    return scan_tar(lambda start, stop: data[start:stop], len(data))


def _names(index: TarIndex) -> list[bytes]:
    return [index.names[number] for number in range(len(index))]


def _images(index: TarIndex, data: bytes) -> list[bytes]:
    return [data[start : start + size] for start, size in zip(index.offsets.tolist(), index.sizes.tolist())]


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("form", FORMATS)
def test_samples_of_each_format(form: str) -> None:
    files = [
        ("set/0001.jpg", b"one"),
        ("set/0001.cls", b"3"),
        ("set/0001.json", b"{}"),
        ("set/0002.txt", b"words"),
        ("set/0002.PNG", b"two" * 700),
        ("set/0002.cls", b" 12\n"),
        ("set/v1.0/0003.webp", b""),
        ("set/v1.0/0003.cls", b"0"),
        ("readme", b"no sample"),
        ("set/0004.txt", b"no image"),
    ]
    data = _tar(files, FORMATS[form])
    index, reason = _scan(data)
    assert reason is None
    assert _names(index) == [b"set/0001", b"set/0002", b"set/v1.0/0003"]
    assert _images(index, data) == [b"one", b"two" * 700, b""]
    assert index.labels is not None
    assert index.labels.tolist() == [3, 12, 0]
    assert index.tar_bytes == len(data)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_and_odd_names(form: str) -> None:
    names = ["d" * 90 + "/" + "n" * 150, "ünï/cødé", "x" * 99, "y" * 100, "a/" * 130 + "z", "line\nend"]
    index, reason = _scan(_tar([(f"{name}.jpg", b"x") for name in names], FORMATS[form]))
    assert reason is None
    assert _names(index) == [name.encode() for name in names]


def test_names_in_bytes() -> None:
    names = [b"caf\xe9", b"\xff\xfe/\x80", b"\xe9" * 200]
    index, _ = _scan(_tar([(name + b".jpg", b"x") for name in names]))
    assert _names(index) == names


def test_prefixes_of_ustar() -> None:
    name = "folder/" * 20 + "0001"
    assert _names(_scan(_tar([(f"{name}.jpg", b"x")], tarfile.USTAR_FORMAT)).index) == [name.encode()]


def test_what_the_tar_command_writes(tmp_path: Path) -> None:
    (tmp_path / "in" / ("long" * 40)).mkdir(parents=True)
    (tmp_path / "in" / ("long" * 40) / "a.jpg").write_bytes(b"a" * 5000)
    (tmp_path / "in" / "b.jpg").write_bytes(b"b")
    (tmp_path / "in" / "c.jpg").symlink_to("b.jpg")
    (tmp_path / "in" / "e.jpg").hardlink_to(tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "d.jpg").mkdir()
    for form in ("gnu", "posix", "oldgnu"):
        folder = ["-C", tmp_path / "in", "."]
        subprocess.run(["tar", f"--format={form}", "--sort=name", "-cf", tmp_path / "x.tar", *folder], check=True)
        data = (tmp_path / "x.tar").read_bytes()
        index, reason = _scan(data)
        assert reason is None
        assert dict(zip(_names(index), _images(index, data))) == {
            b"./" + b"long" * 40 + b"/a": b"a" * 5000,
            b"./b": b"b",
        }


def test_sizes_in_base_256() -> None:
    entry = tarfile.TarInfo("a.jpg")
    entry.size = 9
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (9).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + b"123456789".ljust(512, b"\0") + bytes(1024)
    index, reason = _scan(data)
    assert reason is None
    assert _images(index, data) == [b"123456789"]


def test_the_size_of_a_pax_record_counts() -> None:
    """As files beyond 8 GiB have it."""
    entry = tarfile.TarInfo("a.jpg")
    entry.pax_headers = {"size": "9"}
    data = entry.tobuf(tarfile.PAX_FORMAT) + b"123456789".ljust(512, b"\0")
    data += _tar([("b.jpg", b"b")])
    index, reason = _scan(data)
    assert reason is None
    assert _images(index, data) == [b"123456789", b"b"]


def test_contents_of_images_are_not_read() -> None:
    data = _tar([("a.jpg", bytes(100_000)), ("a.cls", b"1"), ("b.jpg", bytes(100_000)), ("b.cls", b"1")])
    read: list[tuple[int, int]] = []

    def read_at(start: int, stop: int) -> bytes:
        read.append((start, stop))
        return data[start:stop]

    scan_tar(read_at, len(data))
    assert sum(stop - start for start, stop in read) < 5 * 512 + 10


def test_labels_from_json() -> None:
    files = [("a.jpg", b"x"), ("a.json", b'{"label": 7}'), ("b.json", b'{"cls": 5, "caption": "x"}'), ("b.jpg", b"x")]
    index = _scan(_tar(files)).index
    assert index.labels is not None
    assert index.labels.tolist() == [7, 5]


def test_cls_goes_before_json() -> None:
    files = [("a.cls", b"1"), ("a.jpg", b"x"), ("a.json", b'{"label": 7}')]
    labels = _scan(_tar(files)).index.labels
    assert labels is not None
    assert labels.tolist() == [1]


@pytest.mark.parametrize("label", [b"dog", b"-1", b"1.5", b"", b"9" * 30, b"9" * 100])
def test_labels_that_are_no_whole_numbers(label: bytes) -> None:
    files = [("a.jpg", b"x"), ("a.cls", b"1"), ("b.jpg", b"x"), ("b.cls", label)]
    index, reason = _scan(_tar(files))
    assert reason is None
    assert _names(index) == [b"a", b"b"]
    assert index.labels is None


@pytest.mark.parametrize("text", ["[1]", "{", '{"label": true}', '{"label": "x"}', '{"label": -1}', "[" * 100_000])
def test_json_without_a_label(text: str) -> None:
    assert _scan(_tar([("a.jpg", b"x"), ("a.json", text.encode())])).index.labels is None


def test_one_image_of_a_sample() -> None:
    files = [("a.mask.png", b"mask"), ("a.jpg", b"image"), ("b.input.jpg", b"input"), ("b.target.jpg", b"target")]
    data = _tar(files)
    index, reason = _scan(data)
    assert reason is None
    assert _images(index, data) == [b"image", b"input"]


def test_names_with_many_dots_are_told() -> None:
    index, reason = _scan(_tar([(f"v1.0.{number}.jpg", b"x") for number in range(10)]))
    assert len(index) == 1
    assert reason is not None
    assert reason.startswith("9 images are left out: up to the first dot")


def test_hidden_files_are_none() -> None:
    index, _ = _scan(_tar([("._a.jpg", b"x"), ("a.jpg", b"x"), (".DS_Store", b"x"), ("b/.hidden.jpg", b"x")]))
    assert _names(index) == [b"a"]


def _three(label: bool) -> bytes:
    files = []
    for name in "abc":
        files += [(f"{name}.jpg", name.encode() * 1000)] + ([(f"{name}.cls", b"1")] if label else [])
    return _tar(files)


@pytest.mark.parametrize(
    ("length", "names"),
    [
        (300, []),  # in the first header
        (1000, []),  # in the image of a
        (512 + 1024 + 100, [b"a"]),  # in the header of its label
        (2560, [b"a"]),  # between the samples
        (2560 + 512 + 1024, [b"a"]),  # where the label of b is missing
        (2 * 2560 + 700, [b"a", b"b"]),
        (3 * 2560, [b"a", b"b", b"c"]),  # only the mark of the end is missing
    ],
)
def test_a_tar_that_is_cut(length: int, names: list[bytes]) -> None:
    index, reason = _scan(_three(label=True)[:length])
    assert _names(index) == names
    assert reason is not None
    assert reason.startswith("cut short at byte" if length > 512 else "not a tar archive")
    assert index.labels is None or index.labels.tolist() == [1] * len(names)


def test_a_tar_without_labels_that_is_cut() -> None:
    data = _three(label=False)
    index, reason = _scan(data[: 2 * 1536 + 700])
    assert _names(index) == [b"a", b"b"]
    assert reason is not None
    assert reason.startswith("cut short at byte 3772")


def test_a_damaged_header_ends_it() -> None:
    data = bytearray(_three(label=False))
    data[1536 + 20] ^= 1
    index, reason = _scan(bytes(data))
    assert _names(index) == [b"a"]
    assert reason == "damaged at byte 1536: no header of a file there"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"x", "not a tar archive"),
        (b"<html>" + b"x" * 5000, "not a tar archive"),
        (gzip.compress(np.random.default_rng(0).bytes(5000)), "compressed by gzip, which allows no access by position"),
    ],
)
def test_what_is_no_tar(data: bytes, reason: str) -> None:
    index, told = _scan(data)
    assert len(index) == 0
    assert told is not None
    assert told.startswith(reason)


def test_random_bytes_never_break_it() -> None:
    whole = bytearray(_three(label=True) + _tar([("n" * 200 + ".jpg", b"x")], tarfile.PAX_FORMAT))
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        index, _ = _scan(bytes(data))
        assert all(size + offset <= len(data) for offset, size in zip(index.offsets, index.sizes))


@pytest.mark.parametrize("labels", [True, False])
def test_saved_and_loaded(tmp_path: Path, labels: bool) -> None:
    index = _scan(_three(labels)).index
    index.save(tmp_path / index_name("x.tar"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.index.npz"]
    for again in (TarIndex.load(tmp_path / "x.index.npz"), TarIndex.load((tmp_path / "x.index.npz").read_bytes())):
        assert _names(again) == _names(index)
        assert again.offsets.tolist() == index.offsets.tolist()
        assert again.sizes.tolist() == index.sizes.tolist()
        assert again.tar_bytes == index.tar_bytes
        assert (again.labels is None) == (index.labels is None)
        if again.labels is not None:
            assert again.labels.tolist() == [1, 1, 1]


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    good = _scan(_three(True)).index
    good.save(tmp_path / "x")
    data = (tmp_path / "x").read_bytes()
    one = np.array([1], np.int64)
    TarIndex(PathTable([b"a"]), np.array([2], np.int64), one, None, 2).save(tmp_path / "beyond")
    TarIndex(PathTable([b"a"]), np.array([2, 3], np.int64), one, None, 9).save(tmp_path / "uneven")
    np.savez(tmp_path / "other.npz", a=one)
    others = [(tmp_path / name).read_bytes() for name in ("beyond", "uneven", "other.npz")]
    for broken in (b"", b"text", data[: len(data) // 2], json.dumps([1]).encode(), *others):
        with pytest.raises(ValueError, match=r"^index of a shard: damaged"):
            TarIndex.load(broken)
