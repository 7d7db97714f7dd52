"""Parquet files: every way they are written, labels, splits, what is broken in them, and how they are read."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.parquet import ParquetSource
from dinotrain.data.storage.remote import Storage
from dinotrain.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

# From Python 3.12 on; the server for S3 has threads, as has pyarrow.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _blobs(count: int, size: int = 300, seed: int = 0) -> list[bytes]:
    """No images, but reading bytes asks for none."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(size + int(rng.integers(size))) for _ in range(count)]


def _png(level: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (18, 20), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, blobs: list[bytes | None], rows: int = 10, *, kind: Any = _STRUCT, **options: Any) -> Path:
    """A file of images; `labels` and `metadata` among the options."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": blob, "path": f"{n}.png"} for n, blob in enumerate(blobs)] if kind == _STRUCT else blobs
    columns = {"image": pa.array(cells, kind)}
    if (labels := options.pop("labels", None)) is not None:
        columns["label"] = labels if isinstance(labels, pa.Array) else pa.array(labels)
    metadata = options.pop("metadata", None)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=rows, **options)
    return path


def _read(source: ParquetSource) -> list[bytes]:
    return [source.read(index) for index in range(len(source))]


# How files are written


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none", "use_dictionary": False},
        {"compression": "none", "use_dictionary": False, "data_page_size": 1000, "write_batch_size": 3},
        {"compression": "zstd", "use_dictionary": False, "data_page_size": 1000, "write_batch_size": 3},
        {"compression": "snappy", "data_page_version": "2.0", "data_page_size": 1000, "write_batch_size": 3},
        {"compression": "none", "data_page_version": "2.0", "use_dictionary": False},
        {"compression": "gzip", "dictionary_pagesize_limit": 2000, "write_batch_size": 4},
        {"compression": "brotli", "version": "1.0"},
        {"compression": "lz4"},
        {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY", "compression": "none"},
        {"write_page_checksum": True, "write_page_index": True, "write_statistics": True},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()) or "default",
)
@pytest.mark.parametrize("kind", [_STRUCT, pa.binary(), pa.large_binary()], ids=["struct", "binary", "large"])
def test_whatever_pyarrow_writes(tmp_path: Path, options: dict[str, Any], kind: Any) -> None:
    blobs = _blobs(27)
    blobs[5] = blobs[20] = blobs[4]  # a dictionary is shorter than its column
    broken: list[bytes | None] = [*blobs]
    for row in (0, 11, 26):
        broken[row] = None
    encoding = options.get("column_encoding")
    if encoding:
        options = {**options, "column_encoding": {"image.bytes" if kind == _STRUCT else "image": encoding}}
    _write(tmp_path / "whole" / "a.parquet", [*blobs], kind=kind, **options)
    _write(tmp_path / "nulls" / "a.parquet", broken, kind=kind, **options)
    assert _read(ParquetSource(root=tmp_path / "whole")) == blobs
    source = ParquetSource(root=tmp_path / "nulls")
    for row, blob in enumerate(broken):
        if blob is not None:
            assert source.read(row) == blob
        else:
            with pytest.raises(BrokenImage, match="No such file" if kind == _STRUCT else "null: no image in this row"):
                source.read(row)


def test_columns_that_are_never_null(tmp_path: Path) -> None:
    blobs = _blobs(12)
    schema = pa.schema([pa.field("data", pa.binary(), nullable=False)])
    pq.write_table(pa.table({"data": blobs}, schema=schema), tmp_path / "a.parquet", row_group_size=5)
    assert _read(ParquetSource(root=tmp_path, column="data")) == blobs


def test_long_values_and_many_pages(tmp_path: Path) -> None:
    blobs = _blobs(60, size=40_000)
    _write(tmp_path / "a.parquet", [*blobs], 60, compression="none", use_dictionary=False)
    assert _read(ParquetSource(root=tmp_path)) == blobs


def test_what_datasets_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [{"bytes": _png(level), "path": None} for level in range(9)]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1] * 3}, features=features)
    table.to_parquet(tmp_path / "train-0.parquet", batch_size=4)
    source = ParquetSource(root=tmp_path)
    assert [int(source.image(index)[0, 0, 0]) for index in range(9)] == list(range(9))
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 1] * 3


# Files and splits


def test_files_in_order_with_names(tmp_path: Path) -> None:
    parts = [_blobs(count, seed=count) for count in (7, 12, 3)]
    for name, part in zip(("a/2.parquet", "b/1.pq", "b/c/3.PARQUET"), parts, strict=True):
        _write(tmp_path / name, [*part], 5)
    for other in (".hidden.parquet", "_part.parquet", "notes.txt", ".git/x.parquet"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("x")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    source = ParquetSource(root=tmp_path)
    assert _read(source) == parts[0] + parts[1] + parts[2]
    assert [source.name(index) for index in (0, 6, 7, 18, 21)] == [
        *("a/2.parquet:0", "a/2.parquet:6", "b/1.pq:0", "b/1.pq:11", "b/c/3.PARQUET:2")
    ]
    for index in (-1, 22):
        with pytest.raises(IndexError):
            source.read(index)
    assert _read(ParquetSource(root=tmp_path / "b" / "1.pq")) == parts[1]
    assert _read(ParquetSource(root=f"{tmp_path}/**/*.pq")) == parts[1]
    assert _read(ParquetSource(root=[str(tmp_path / "b" / "1.pq"), str(tmp_path / "a")])) == parts[0] + parts[1]


@pytest.mark.parametrize(
    ("train", "test", "other"),
    [
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet", "data/test-0.parquet"),
        ("train/0000.parquet", "test/0000.parquet", "extra/0000.parquet"),
        ("plain/train/0.parquet", "plain/val/0.parquet", "plain/test/0.parquet"),
        ("train.parquet", "valid.parquet", "testimony.parquet"),
    ],
)
def test_splits(tmp_path: Path, train: str, test: str, other: str) -> None:
    names = '{"info": {"features": {"label": {"names": ["cat", "dog", "eel"]}}}}'
    for seed, name in enumerate((train, test, other)):
        _write(tmp_path / name, [*_blobs(6, seed=seed)], labels=[seed] * 6, metadata={"huggingface": names})
    source = ParquetSource(root=tmp_path)
    assert _read(source) == _blobs(6)
    assert source.classes == ("cat", "dog", "eel")
    held_out = source.test()
    assert held_out is not None
    assert _read(held_out) == _blobs(6, seed=1)
    assert held_out.labels is not None
    assert held_out.labels.tolist() == [1] * 6
    assert held_out.test() is None
    assert ParquetSource(root=tmp_path / test).test() is None


def test_without_a_training_split_all_files_are_read(tmp_path: Path) -> None:
    for name in ("test-0.parquet", "other.parquet"):
        _write(tmp_path / name, [*_blobs(4)])
    source = ParquetSource(root=tmp_path)
    assert len(source) == 8
    assert source.test() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_may_not_be_listed(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "a.parquet", [*_blobs(4)])
    _write(tmp_path / "b" / "b.parquet", [*_blobs(4)])
    (tmp_path / "b").chmod(0)
    try:
        with pytest.warns(UserWarning, match=r"data.root: left out .*b: Permission denied"):
            assert len(ParquetSource(root=tmp_path)) == 4
        with pytest.raises(UserError, match=r"data.root: can't list .*b: Permission denied"):
            ParquetSource(root=tmp_path / "b")
    finally:
        (tmp_path / "b").chmod(0o755)


# Labels


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        ([10, 2, 10], [1, 0, 1], ("2", "10")),
        (pa.array([1, 0, 1], pa.int8()), [1, 0, 1], ("0", "1")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1], ("a", "b")),
        ([True, False, True], [1, 0, 1], ("0", "1")),
        ([-1, -1, -1], None, None),
    ],
)
def test_labels(tmp_path: Path, labels: Any, numbers: list[int] | None, classes: tuple[str, ...] | None) -> None:
    _write(tmp_path / "a.parquet", [*_blobs(3)], 2, labels=labels)
    source = ParquetSource(root=tmp_path)
    assert (None if source.labels is None else source.labels.tolist()) == numbers
    assert source.classes == classes
    assert source.labels is None or source.labels.dtype == np.int64
    assert ParquetSource(root=tmp_path, label_column=None).labels is None


def test_a_test_split_has_the_class_numbers_of_the_training_split(tmp_path: Path) -> None:
    _write(tmp_path / "train-0.parquet", [*_blobs(3)], labels=["dog", "ape", "dog"])
    _write(tmp_path / "test-0.parquet", [*_blobs(3)], labels=["cat", "dog", "ape"])
    test = ParquetSource(root=tmp_path).test()
    assert test is not None
    assert test.classes == ("ape", "dog", "cat")
    assert test.labels is not None
    assert test.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0.5, 1.0], "holds double, expected whole numbers or text"),
        ([1, None], "1 of 2 rows have no label in column 'label'"),
        ([0, -1], "some labels are -1"),
        ([0, 2], "there is a label 2, but there are 2 class names"),
        ([[1], [2]], "holds list"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, labels: list[Any], words: str) -> None:
    names = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    _write(tmp_path / "a.parquet", [*_blobs(2)], labels=labels, metadata={"huggingface": names})
    with pytest.raises(UserError, match=words) as caught:
        ParquetSource(root=tmp_path)
    assert str(caught.value).startswith("data.label_column: ")
    assert "null for no labels" in str(caught.value) or "class names" in str(caught.value)
    assert len(ParquetSource(root=tmp_path, label_column=None)) == 2


def test_labels_in_some_files_only(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", [*_blobs(2)], labels=[0, 1])
    _write(tmp_path / "b.parquet", [*_blobs(2)])
    with pytest.raises(UserError, match=r"data.label_column: no column 'label' in .*b.parquet, but in others"):
        ParquetSource(root=tmp_path)
    _write(tmp_path / "b.parquet", [*_blobs(2)], labels=["x", "y"])
    with pytest.raises(UserError, match=r"data.label_column: the labels of some files are int64, of others string"):
        ParquetSource(root=tmp_path)


# What is broken


def _ruin(path: Path, how: str) -> None:
    data = path.read_bytes()
    contents = {
        "empty": b"",
        "short": b"PAR1",
        "cut": data[: len(data) // 2],
        "other": b"\x89PNG" + bytes(100),
        "footer": data[:-400] + bytes(range(128)) * 3 + data[-16:],
        "long footer": data[:-8] + b"\xff\xff\xff\x7fPAR1",
        "encrypted": data[:-4] + b"PARE",
        "inside": data[:50] + data[-(len(data) // 3) :],
    }
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "link":
        path.unlink()
        path.symlink_to("nowhere")
    else:
        path.write_bytes(contents[how])


_RUINS = {
    "empty": "empty file",
    "short": "not a Parquet file",
    "cut": "cut short: a Parquet file without its end",
    "other": "not a Parquet file",
    "footer": "not a readable Parquet file",
    "long footer": "its footer is longer than the file",
    "encrypted": "an encrypted Parquet file",
    "inside": "cut short: its row groups go on after its end",
    "pipe": "not a regular file",
    "link": "No such file",
}


@pytest.mark.parametrize("how", list(_RUINS))
def test_a_file_that_cannot_be_listed_is_left_out(tmp_path: Path, how: str) -> None:
    for number in range(3):
        _write(tmp_path / f"{number}.parquet", [*_blobs(30, seed=number)])
    _ruin(tmp_path / "1.parquet", how)
    source = ParquetSource(root=tmp_path)
    assert _read(source) == _blobs(30) + _blobs(30, seed=2)
    assert [part.name for part in source.left_out] == ["1.parquet"]
    assert _RUINS[how] in source.left_out[0].reason
    assert "\n" not in source.left_out[0].reason
    with pytest.raises(UserError, match=r"data.root: 1 of 1 Parquet files can't be read") as caught:
        ParquetSource(root=f"{tmp_path}/[1].parquet")
    assert _RUINS[how] in str(caught.value)


def test_no_more_files_may_fail_than_max_broken_says(tmp_path: Path) -> None:
    for number in range(4):
        _write(tmp_path / f"{number}.parquet", [*_blobs(5)])
    for number in (1, 2):
        _ruin(tmp_path / f"{number}.parquet", "cut")
    with pytest.raises(
        UserError, match=r"data.root: 2 of 4 Parquet .*more than data.max_broken=0.01: .*1.parquet: cut"
    ):
        ParquetSource(root=tmp_path)
    assert len(ParquetSource(root=tmp_path, max_broken=0.5)) == 10


def test_a_file_of_another_kind_is_left_out(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", [*_blobs(5)])
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
    source = ParquetSource(root=tmp_path)
    assert len(source) == 5
    assert source.left_out == (("b.parquet", "no column 'image'; the columns of the file: text"),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"column": "img"}, r"data.column: no column 'img'; the columns of the file: image, label \(.*a.parquet"),
        ({"column": "label"}, "data.column: column 'label' holds INT64, expected bytes"),
        ({"column": "text"}, "data.column: .*holds text, expected bytes; data=list reads"),
        ({"column": "list"}, "data.column: column 'list' holds no bytes"),
        ({"column": "other"}, r"data.column: column 'other' holds no bytes \(it has other.x\)"),
        ({"label_column": "fine"}, "data.label_column: no column 'fine' in .*a.parquet"),
    ],
)
def test_wrong_columns(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    columns: dict[str, Any] = {"image": _blobs(2), "label": [0, 1]}
    if (more := options.get("column")) in ("text", "list", "other"):
        columns[more] = {"text": ["a", "b"], "list": [[b"a"], [b"b"]], "other": [{"x": 1}, {"x": 2}]}[more]
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=words) as caught:
        ParquetSource(root=tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_no_files_and_no_rows(tmp_path: Path) -> None:
    cases = {"missing": "does not exist, expected a Parquet file", "empty": "no Parquet file in", "*.pq": "no Parquet"}
    (tmp_path / "empty").mkdir()
    for name, words in cases.items():
        with pytest.raises(UserError, match=f"data.root: .*{words}"):
            ParquetSource(root=tmp_path / name)
    _write(tmp_path / "none" / "a.parquet", [])
    with pytest.raises(UserError, match=r"data.root: no rows in .*a.parquet"):
        ParquetSource(root=tmp_path / "none")
    _write(tmp_path / "none" / "b.parquet", [*_blobs(2)])
    assert len(ParquetSource(root=tmp_path / "none")) == 2


@pytest.mark.parametrize("key", ["window", "cache_mb", "min_size", "max_broken"])
def test_values_are_checked(tmp_path: Path, key: str) -> None:
    options: dict[str, Any] = {key: -1}
    with pytest.raises(ValueError, match=f"{key}: got -1, must be"):
        ParquetSource(root=tmp_path, **options)


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'dinotrain\[data\]'"):
        ParquetSource(root=tmp_path)


def test_files_named_beside_null_bytes(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "x.parquet", [_png(1), None, None], 2)
    (tmp_path / "a" / "1.png").write_bytes(_png(2))
    source = ParquetSource(root=tmp_path)
    assert [int(source.image(index)[0, 0, 0]) for index in (0, 1)] == [1, 2]
    with pytest.raises(BrokenImage, match="No such file"):
        source.image(2)
    with pytest.raises(BrokenImage, match="18x20 px, smaller"):
        ParquetSource(root=tmp_path, min_size=19).image(0)


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_damage_inside_breaks_images_and_nothing_else(tmp_path: Path, compression: str) -> None:
    blobs = _blobs(40)
    path = _write(tmp_path / "a.parquet", [*blobs], compression=compression, use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    for place in range(start, start + 60):
        data[place] ^= 0x5A
    path.write_bytes(data)
    source = ParquetSource(root=tmp_path)
    for index in range(40):
        if index // 10 != 1:
            assert source.read(index) == blobs[index]
        else:
            with pytest.raises(BrokenImage, match="damaged") as caught:
                source.read(index)
            assert "\n" not in caught.value.reason


def test_a_file_that_goes_away_later(tmp_path: Path) -> None:
    for name in "ab":
        _write(tmp_path / f"{name}.parquet", [*_blobs(5)], compression="none", use_dictionary=False)
    source = ParquetSource(root=tmp_path)
    (tmp_path / "b.parquet").unlink()
    assert source.read(0)
    with pytest.raises(BrokenImage, match="No such file"):
        source.read(5)
    os.truncate(tmp_path / "a.parquet", 20)
    with pytest.raises(BrokenImage, match="the file ends before byte"):
        source.read(4)


# The order of training


def test_every_row_once_in_each_epoch_in_windows_of_row_groups(tmp_path: Path) -> None:
    for number, count in enumerate((37, 20, 43)):
        _write(tmp_path / f"{number}.parquet", [*_blobs(count, size=5)])
    source = ParquetSource(root=tmp_path, window=3)
    order = source.order()
    indices = order(np.arange(300), 5)
    groups = np.searchsorted(np.cumsum([10, 10, 10, 7, 10, 10, 10, 10, 10, 10, 3]), indices, side="right")
    for epoch in range(3):
        assert sorted(indices[100 * epoch : 100 * epoch + 100].tolist()) == list(range(100))
        assert len(set(groups[100 * epoch : 100 * epoch + 20].tolist())) <= 3
    assert not np.array_equal(indices[:100], indices[100:200])
    again = pickle.loads(pickle.dumps(ParquetSource(root=tmp_path, window=3)))
    for start in (1, 57, 99, 250):
        assert np.array_equal(again.order()(np.arange(start, start + 40), 5), indices[start : start + 40])
    others = list(islice(order.replacements(17, 5), 200))
    assert sorted([*others, int(indices[17])]) == list(range(100))


def test_the_window_is_lowered_where_row_groups_must_be_kept_whole(tmp_path: Path) -> None:
    encoding = {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}
    _write(tmp_path / "a.parquet", [*_blobs(40, size=100_000)], use_dictionary=False, column_encoding=encoding)
    with pytest.warns(UserWarning, match=r"data.window: 1 instead of 4: .* up to 2 MB, .*data.cache_mb=2"):
        low = ParquetSource(root=tmp_path, window=4, cache_mb=2)
    groups = low.order()(np.arange(40), 0) // 10
    assert all(len(set(groups[start : start + 10].tolist())) == 1 for start in range(0, 40, 10))
    high = ParquetSource(root=tmp_path, window=4, cache_mb=20)
    assert low.fingerprint() != high.fingerprint()
    assert low.fingerprint() == ParquetSource(root=tmp_path, window=1).fingerprint()
    # Where pages are small, or hold the images as they are, no more is kept than one of them.
    small: dict[str, Any] = {"compression": "snappy", "data_page_size": 10**5, "write_batch_size": 1}
    plain: dict[str, Any] = {"compression": "none"}
    for options in (plain, small):
        _write(tmp_path / "a.parquet", [*_blobs(40, size=100_000)], use_dictionary=False, **options)
        ParquetSource(root=tmp_path, window=4, cache_mb=1)


def test_row_groups_larger_than_what_is_kept(tmp_path: Path) -> None:
    blobs = _blobs(60, size=150_000)
    _write(tmp_path / "a.parquet", [*blobs], 60)
    with pytest.warns(
        UserWarning, match=r"data.window: 1 instead of 8: .* up to 14 MB, .* with which reading in random order is slow"
    ):
        source = ParquetSource(root=tmp_path, cache_mb=1)
    assert source.order()(np.arange(60), 0).tolist() == ParquetSource(root=tmp_path).order()(np.arange(60), 0).tolist()
    assert [source.read(index) for index in (0, 59, 30)] == [blobs[0], blobs[59], blobs[30]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ParquetSource(root=tmp_path, cache_mb=4, window=1).read(7) == blobs[7]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy"},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    ],
)
def test_what_is_kept_stays_within_its_bound(tmp_path: Path, options: dict[str, Any]) -> None:
    blobs = _blobs(100, size=30_000)
    _write(tmp_path / "a.parquet", [*blobs], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = ParquetSource(root=tmp_path, cache_mb=1)
    for index in source.order()(np.arange(100), 0).tolist():
        assert source.read(index) == blobs[index]
        assert source.kept_bytes <= 10**6
    if options.get("compression") == "none":
        assert source.kept_bytes < 20_000  # places of values, no images


# Processes, threads, other places


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_forked_processes_and_threads_read_what_the_parent_has_read(tmp_path: Path, compression: str) -> None:
    blobs = _blobs(50, size=2000)
    _write(tmp_path / "a.parquet", [*blobs], compression=compression)
    source = ParquetSource(root=tmp_path)
    assert source.read(3) == blobs[3]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, range(50))) == blobs
    with get_context("fork").Pool(2) as pool:
        assert pool.map(source.read, range(50)) == blobs
    assert _read(pickle.loads(pickle.dumps(source))) == blobs


def test_fingerprint_follows_the_files_not_the_place(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "x.parquet", [*_blobs(5)])
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")
    _write(tmp_path / "d" / "x.parquet", [*_blobs(5, seed=1)])
    _write(tmp_path / "e" / "y.parquet", [*_blobs(5)])
    prints = [ParquetSource(root=tmp_path / name).fingerprint() for name in ("a", "b", "d", "e")]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, Any, Storage]]:
    """URL of a server for S3 and HTTP, its client, and how it is read."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **keys)
    client.create_bucket(Bucket="set")
    options = {"key": "test", "secret": "test", "endpoint_url": url}
    yield url, client, Storage(retries=1, backoff=0, options=options)
    server.stop()


def _upload(client: Any, folder: Path, prefix: str) -> None:
    for path in sorted(path for path in folder.rglob("*.parquet") if path.is_file()):
        key = f"{prefix}/{path.relative_to(folder)}"
        client.put_object(Bucket="set", Key=key, Body=path.read_bytes(), ACL="public-read")


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_s3(tmp_path: Path, bucket: tuple[str, Any, Storage], compression: str) -> None:
    _, client, storage = bucket
    parts = [_blobs(25), _blobs(15, seed=1)]
    _write(tmp_path / "data" / "train-0.parquet", [*parts[0]], labels=["b", "a"] * 12 + ["b"], compression=compression)
    _write(tmp_path / "data" / "train-1.parquet", [*parts[1]], labels=["c"] * 15, compression=compression)
    _write(tmp_path / "data" / "test-0.parquet", [*_blobs(3, seed=2)], labels=["c"] * 3)
    _upload(client, tmp_path, compression)
    source = ParquetSource(root=f"s3://set/{compression}", storage=storage)
    assert _read(source) == parts[0] + parts[1]
    assert source.name(39) == "train-1.parquet:14"
    assert source.classes == ("a", "b", "c")
    test = source.test()
    assert test is not None
    assert _read(test) == _blobs(3, seed=2)
    assert source.fingerprint() == ParquetSource(root=tmp_path).fingerprint()
    again = ParquetSource(root=f"s3://set/{compression}/data/train-*.parquet", storage=storage)
    again.fetch(range(40))
    with get_context("fork").Pool(1) as pool:
        assert pool.map(again.read, range(40)) == parts[0] + parts[1]


def test_a_remote_file_that_pyarrow_decodes_and_folders_of_that_name(
    tmp_path: Path, bucket: tuple[str, Any, Storage]
) -> None:
    _, client, storage = bucket
    blobs = _blobs(12)
    encoding = {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}
    for name, part in (("a/part-0.parquet", blobs[:7]), ("b/part-1.parquet", blobs[7:])):
        _write(tmp_path / "x.parquet" / name, [*part], 5, use_dictionary=False, column_encoding=encoding)
    _upload(client, tmp_path, "spark")
    for cache in (None, str(tmp_path / "cache")):
        kept = Storage(retries=0, cache=cache, options=storage.options)
        source = ParquetSource(root="s3://set/spark/x.parquet", storage=kept)
        assert _read(source) == blobs
        assert [source.name(index) for index in (0, 11)] == ["a/part-0.parquet:0", "b/part-1.parquet:4"]


def test_http(tmp_path: Path, bucket: tuple[str, Any, Storage]) -> None:
    url, client, _ = bucket
    blobs = _blobs(25)
    path = _write(tmp_path / "a.parquet", [*blobs])
    _upload(client, path.parent, "http")
    source = ParquetSource(root=f"{url}/set/http/a.parquet?token=secret", storage=Storage(retries=0))
    assert _read(source) == blobs
    assert source.name(3) == "a.parquet:3"
    with pytest.raises(UserError, match=r"data.root: 1 of 1 Parquet files can't be read: .*b.parquet: .*404") as caught:
        ParquetSource(root=f"{url}/set/http/b.parquet?token=secret", storage=Storage(retries=0))
    assert "secret" not in str(caught.value)


def test_remote_files_kept_on_disk(tmp_path: Path, bucket: tuple[str, Any, Storage]) -> None:
    _, client, storage = bucket
    blobs = _blobs(25)
    _upload(client, _write(tmp_path / "files" / "a.parquet", [*blobs]).parent, "kept")
    cached = Storage(retries=0, cache=str(tmp_path / "cache"), options=storage.options)
    source = ParquetSource(root="s3://set/kept/a.parquet", storage=cached)
    assert source.read(0) == blobs[0]
    client.delete_object(Bucket="set", Key="kept/a.parquet")
    assert _read(source) == blobs


def test_a_remote_file_that_goes_away(tmp_path: Path, bucket: tuple[str, Any, Storage]) -> None:
    _, client, storage = bucket
    _upload(client, _write(tmp_path / "a.parquet", [*_blobs(25)]).parent, "gone")
    source = ParquetSource(root="s3://set/gone", storage=storage)
    assert source.read(0)
    client.delete_object(Bucket="set", Key="gone/a.parquet")
    source.fetch([5, 15])
    assert source.read(5)  # of a row group that was read before
    with pytest.raises(BrokenImage):
        source.read(15)
    with pytest.raises(UserError, match=r"data.root: "):
        ParquetSource(root="s3://set/gone", storage=storage)
    with pytest.raises(UserError, match=r"data.root: "):
        ParquetSource(root="s3://nowhere/gone", storage=storage)


def test_remote_row_groups_are_kept_whole(tmp_path: Path, bucket: tuple[str, Any, Storage]) -> None:
    _, client, storage = bucket
    blobs = _blobs(40, size=100_000)
    path = _write(tmp_path / "a.parquet", [*blobs], compression="none", use_dictionary=False)
    _upload(client, path.parent, "large")
    with pytest.warns(UserWarning, match=r"data.window: 2 instead of 8: .*storage.cache to a folder"):
        source = ParquetSource(root="s3://set/large", cache_mb=4, storage=storage)
    indices = source.order()(np.arange(40), 0).tolist()
    for start in range(0, 40, 8):
        source.fetch(indices[start : start + 8])
        assert [source.read(index) for index in indices[start : start + 8]] == [
            blobs[index] for index in indices[start : start + 8]
        ]
        assert source.kept_bytes <= 4 * 10**6
