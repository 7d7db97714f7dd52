"""Datasets of the Hugging Face `datasets` library: saved on disk, known to a loader, or on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from dinotrain.data.arguments import share, whole
from dinotrain.data.order import Order
from dinotrain.data.source import Source
from dinotrain.data.sources.hub_rows import HubRows
from dinotrain.data.sources.hub_splits import (
    among,
    builder_of,
    is_saved,
    library,
    parquet_files_of,
    place_of,
    prepared_split,
    saved_split,
)
from dinotrain.data.sources.parquet import ParquetSource
from dinotrain.data.storage.remote import Storage

_TRAIN, _TESTS = "train", ("validation", "test")


class HubSource(Source):
    """The images of one split of a dataset, in its order.

    Args:
        root: a folder written by `save_to_disk`, a folder of images or data files, or the name of a dataset on the
            Hub. What is not saved by `save_to_disk` is prepared in the cache of the library first (HF_HOME), a copy of
            the whole set for most formats.
        split: the split to read; with a loader also a part of it, such as "train[:10%]".
        config_name: configuration of the dataset, where it has several.
        column: name of the column of images.
        label_column: name of the column of labels; None for no labels. A column `label` need not be there.
        streaming: read the Parquet files of the dataset where they are, without preparing a copy.
        revision: branch, tag or commit on the Hub.
        window: row groups that are shuffled together when streaming.
        cache_mb: bound on what each process keeps when streaming, in megabytes.
        min_size: images with a shorter side than this many pixels count as broken.
        max_broken: share of the Parquet files that may be unreadable when streaming.
        classes: class names in the order of their numbers, where the set names none; others follow.
        storage: how remote files are read when streaming.

    Raises:
        UserError: the library is missing or can't load the set, or there is no such split or column.
    """

    def __init__(
        self,
        *,
        root: str | PathLike[str],
        split: str = _TRAIN,
        config_name: str | None = None,
        column: str = "image",
        label_column: str | None = "label",
        streaming: bool = False,
        revision: str | None = None,
        window: int = 8,
        cache_mb: int = 256,
        min_size: int = 1,
        max_broken: float = 0.01,
        classes: Sequence[str] | None = None,
        storage: Storage = Storage(),  # noqa: B008
    ) -> None:
        self.min_size = whole("min_size", min_size, 1)
        columns = {"column": column, "label_column": label_column, "min_size": min_size}
        options = {
            "window": whole("window", window, 1),
            "cache_mb": whole("cache_mb", cache_mb, 1),
            "max_broken": share("max_broken", max_broken),
            "storage": storage,
            **columns,
        }
        self._split = split
        self._options = {
            "root": root,
            "config_name": config_name,
            "streaming": streaming,
            "revision": revision,
            **options,
        }
        self._inner: HubRows | ParquetSource
        with library():
            place = place_of(root)
            builder = None if is_saved(place) else builder_of(place, config_name, revision)
            if builder is not None and streaming:
                files = parquet_files_of(builder, place)
                self._splits = tuple(files)
                self._inner = ParquetSource(root=among(files, split, place), classes=classes, **options)
            else:
                found = saved_split(place, split) if builder is None else prepared_split(builder, split, place)
                self._splits, dataset = found
                self._inner = HubRows(dataset=dataset, split=split, classes=classes, **columns)
        self.labels, self.classes, self.left_out = self._inner.labels, self._inner.classes, self._inner.left_out

    def __len__(self) -> int:
        return len(self._inner)

    def read(self, index: int) -> bytes:
        """The bytes of an image; raises `BrokenImage` where there are none, or its file can't be read."""
        return self._inner.read(index)

    def name(self, index: int) -> str:
        """Split and number of the row: `train:17`; with streaming the file and the number of the row in it."""
        return self._inner.name(index)

    def order(self) -> Order:
        return self._inner.order()

    def fetch(self, indices: Sequence[int]) -> None:
        self._inner.fetch(indices)

    def fingerprint(self) -> str:
        return self._inner.fingerprint()

    def test(self) -> HubSource | None:
        """The split `validation`, or else `test`, of a training split; its classes have the numbers they have here."""
        split = next((split for split in _TESTS if split in self._splits), None)
        if split is None or self._split.partition("[")[0] != _TRAIN:
            return None
        return HubSource(split=split, classes=self.classes, **self._options)
