"""The splits of a dataset of the Hugging Face `datasets` library."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any

from dinotrain.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder


@contextmanager
def library() -> Iterator[None]:
    """The library, quiet: bars only for somebody who watches, and no word to its makers about what is loaded."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        from datasets import config
    except ImportError as error:
        raise UserError(
            "data: reading Hugging Face datasets needs the datasets library: pip install 'dinotrain[data]'"
        ) from error
    bars, counts = datasets.is_progress_bar_enabled(), config.HF_UPDATE_DOWNLOAD_COUNTS
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if not sys.stderr.isatty() or os.environ.get("LOCAL_RANK", "0") != "0":
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        if bars:
            datasets.enable_progress_bars()


def place_of(root: str | PathLike[str]) -> str:
    """A folder as an absolute path; the name of a set on the Hub as it is."""
    path = os.path.abspath(os.path.expanduser(os.fspath(root)))
    if os.path.exists(path):
        return path
    text = os.fspath(root)
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise UserError(
            f"data.root: {text} does not exist, expected a folder, or the name of a dataset on the Hub like user/name"
        )
    return text


def is_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote this."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json"))


def saved_split(folder: str, split: str) -> tuple[tuple[str, ...], Dataset]:
    """Names of the splits, and one of them, of what `save_to_disk` wrote."""
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(folder)
    except Exception as error:  # the library raises nearly every type
        raise UserError(f"data.root: datasets can't load {folder}: {_line(error)}") from error
    named = found.items() if isinstance(found, DatasetDict) else [(found.split or "train", found)]
    splits = {str(name): dataset for name, dataset in named}
    return tuple(splits), among(splits, split, folder)


def builder_of(place: str, name: str | None, revision: str | None) -> DatasetBuilder:
    """What the library reads a set with; for one on the Hub it gets no more than the list of its files."""
    from datasets import load_dataset_builder

    try:
        return load_dataset_builder(place, name, revision=revision)
    except Exception as error:
        raise UserError(f"data.root: datasets can't load {place}: {_line(error)}") from error


def prepared_split(builder: DatasetBuilder, split: str, place: str) -> tuple[tuple[str, ...], Dataset]:
    """Names of the splits, and one of them, after the library has made its copy."""
    try:
        builder.download_and_prepare()
        splits = tuple(map(str, builder.info.splits or ()))
        among(dict.fromkeys(splits), split.partition("[")[0], place)
        return splits, builder.as_dataset(split=split)  # pyright: ignore[reportReturnType]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data.root: datasets can't load {place} (split {split}): {_line(error)}") from error


def parquet_files_of(builder: DatasetBuilder, place: str) -> dict[str, list[str]]:
    """The Parquet files of each split."""
    files = builder.config.data_files
    kind = type(builder).__module__.rpartition(".")[2]
    if kind != "parquet" or not files:
        raise UserError(
            f"data.streaming: {place} is read by the loader {kind!r}, expected Parquet files; streaming=false prepares "
            "a copy of it, `python -m dinotrain.prepare` makes shards"
        )
    return {str(split): [str(file) for file in listed] for split, listed in files.items()}


def among(splits: dict[str, Any], split: str, place: str) -> Any:
    if split not in splits:
        raise UserError(f"data.split: no split {split!r} in {place}, it has: {', '.join(splits)}")
    return splits[split]


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
