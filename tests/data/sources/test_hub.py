"""Hugging Face datasets: saved on disk, prepared by a loader, or read where their Parquet files are."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from dinotrain.data.broken import BrokenImage
from dinotrain.data.order import Shuffled, Windowed
from dinotrain.errors import UserError

os.environ["HF_HUB_OFFLINE"] = "1"
datasets = pytest.importorskip("datasets")

from dinotrain.data.sources.hub import HubSource  # noqa: E402

# From Python 3.12 on; pyarrow has threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def _png(number: int) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (18, 20), (number % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _dataset(length: int, first: int = 0, **more: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
    numbers = range(first, first + length)
    columns = {
        "image": [{"bytes": _png(number), "path": None} for number in numbers],
        "label": [number % 3 for number in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features), **more)


def _levels(source: HubSource) -> list[int]:
    return [int(source.image(index)[0, 0, 0]) for index in range(len(source))]


def _save(folder: Path) -> None:
    splits = {"train": _dataset(7), "test": _dataset(3, 100), "validation": _dataset(4, 200)}
    datasets.DatasetDict(splits).save_to_disk(folder)


def test_a_saved_dataset(tmp_path: Path) -> None:
    _dataset(10).shuffle(seed=1).select(range(6)).save_to_disk(tmp_path / "set")
    source = HubSource(root=tmp_path / "set")
    expected = datasets.load_from_disk(tmp_path / "set")
    assert _levels(source) == [np.asarray(image)[0, 0, 0] for image in expected["image"]]
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == list(expected["label"])
    assert source.name(5) == "train:5"
    assert source.test() is None
    assert isinstance(source.order(), Shuffled)
    for index in (-1, 6):
        with pytest.raises(IndexError):
            source.read(index)
        with pytest.raises(IndexError):
            source.name(index)
    again = pickle.loads(pickle.dumps(source))
    assert _levels(again) == _levels(source)
    with pytest.raises(BrokenImage, match="18x20 px, smaller"):
        HubSource(root=tmp_path / "set", min_size=19).image(0)


def test_a_saved_dataset_with_splits(tmp_path: Path) -> None:
    _save(tmp_path / "set")
    source = HubSource(root=str(tmp_path / "set"))
    assert len(source) == 7
    test = source.test()
    assert test is not None
    assert _levels(test) == [200, 201, 202, 203]
    assert test.name(0) == "validation:0"
    assert test.test() is None
    assert len(HubSource(root=tmp_path / "set", split="test")) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_parquet_files(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "set").mkdir()
    _dataset(6).to_parquet(tmp_path / "set" / "train-00000-of-00002.parquet", batch_size=2)
    _dataset(5, 6).to_parquet(tmp_path / "set" / "train-00001-of-00002.parquet", batch_size=2)
    _dataset(4, 50).to_parquet(tmp_path / "set" / "test-00000-of-00001.parquet")
    source = HubSource(root=tmp_path / "set", streaming=streaming)
    assert _levels(source) == list(range(11))
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels is not None
    assert source.labels.tolist() == [number % 3 for number in range(11)]
    test = source.test()
    assert test is not None
    assert _levels(test) == [50, 51, 52, 53]
    assert isinstance(source.order(), Windowed if streaming else Shuffled)
    assert source.name(7) == ("train-00001-of-00002.parquet:1" if streaming else "train:7")
    source.fetch([1, 2])
    # Streaming leaves the set where it is.
    assert bool(list((tmp_path / "cache").rglob("*.arrow"))) != streaming
    if not streaming:
        assert _levels(HubSource(root=tmp_path / "set", split="train[2:4]")) == [2, 3]


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/b.png", "test/dog/c.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(_png(len(name)))
    source = HubSource(root=tmp_path / "set")
    assert source.classes == ("cat", "dog")
    assert source.image(0).shape == (20, 18, 3)
    (tmp_path / "set" / "train" / "cat" / "a.png").unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        source.image(0)
    with pytest.raises(UserError, match=r"data.streaming: .* the loader 'imagefolder', expected Parquet"):
        HubSource(root=tmp_path / "set", streaming=True)


def test_columns_of_bytes_and_rows_without_an_image(tmp_path: Path) -> None:
    columns = {"data": [_png(1), None], "kind": ["x", "y"]}
    features = {"data": datasets.Value("binary"), "kind": datasets.Value("string")}
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(tmp_path / "set")
    source = HubSource(root=tmp_path / "set", column="data", label_column="kind")
    assert source.classes == ("x", "y")
    assert source.image(0)[0, 0, 0] == 1
    with pytest.raises(BrokenImage, match="null: no image in this row"):
        source.image(1)
    assert HubSource(root=tmp_path / "set", column="data").labels is None
    assert HubSource(root=tmp_path / "set", column="data", label_column=None).labels is None


def test_fingerprint_follows_the_images_not_the_place(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 0), ("c", 1)):
        _dataset(5, first).save_to_disk(tmp_path / name)
    prints = [HubSource(root=tmp_path / name).fingerprint() for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_forked_processes_read_what_the_parent_has_read(tmp_path: Path) -> None:
    _dataset(9).save_to_disk(tmp_path / "set")
    source = HubSource(root=tmp_path / "set")
    expected = _levels(source)
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_Level(source), range(9)) == expected


class _Level:
    def __init__(self, source: HubSource) -> None:
        self._source = source

    def __call__(self, index: int) -> int:
        return int(self._source.image(index)[0, 0, 0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "dev"}, r"data.split: no split 'dev' in .*set, it has: train, test, validation"),
        ({"column": "img"}, "data.column: no column 'img', the set has: image, label"),
        ({"column": "label"}, "data.column: column 'label' holds ClassLabel.*, expected images"),
        ({"label_column": "fine"}, "data.label_column: no column 'fine', the set has: image, label"),
        ({"label_column": "image"}, "data.label_column: column 'image' holds struct"),
        ({"root": "/nowhere/set"}, "data.root: /nowhere/set does not exist, expected a folder, or the name"),
        ({"root": "nobody/set-of-nothing"}, "data.root: datasets can't load nobody/set-of-nothing: "),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    _save(tmp_path / "set")
    with pytest.raises(UserError, match=words) as caught:
        HubSource(**{"root": tmp_path / "set", **options})
    assert "\n" not in str(caught.value)


def test_refusals_of_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data.root: datasets can't load .*empty: "):
        HubSource(root=tmp_path / "empty")
    (tmp_path / "cut").mkdir()
    _dataset(5).save_to_disk(tmp_path / "cut")
    arrow = next((tmp_path / "cut").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(UserError, match=r"data.root: datasets can't load .*cut: "):
        HubSource(root=tmp_path / "cut")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'dinotrain\[data\]'"):
        HubSource(root="anything")


def test_progress_bars_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dataset(3).save_to_disk(tmp_path / "set")
    shown: list[bool] = []
    load: Callable[..., Any] = datasets.load_from_disk
    monkeypatch.setattr(
        datasets, "load_from_disk", lambda folder: [shown.append(datasets.is_progress_bar_enabled()), load(folder)][1]
    )
    datasets.enable_progress_bars()
    HubSource(root=tmp_path / "set")
    assert shown == [False]
    assert datasets.is_progress_bar_enabled()
