"""Files of features, read with the libraries that people read them with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded_pictures import COLUMNS, COUNT, collected, pictures

from dinotrain.distributed.world import World
from dinotrain.embedding.collected import Collected
from dinotrain.embedding.content import Column, columns_of
from dinotrain.embedding.output import Output
from dinotrain.embedding.search import nearest_in
from dinotrain.errors import UserError

ABOUT = {"weights": "w", "size": 16, "batch": 4, "device": "cpu"}
POOLED = tuple(column for column in COLUMNS if column.pooled)
NAMES = [f"pictures/{index:04d}" for index in range(COUNT) if index not in (3, 4, 22)]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return collected(tmp_path_factory.mktemp("features") / "parts", World(0, 1, 0, 1, torch.device("cpu"), None))


def rows(features: Collected, column: Column) -> np.ndarray:
    return np.concatenate(list(features.rows(column.name)))


def written(path: Path, features: Collected, columns: tuple[Column, ...] = COLUMNS) -> Output:
    output = Output(path, columns)
    some = Collected(features.parts, features.source, columns, features.dtype)
    output.write(some, ABOUT, {"made": "here"})
    return output


def test_parquet(tmp_path: Path, features: Collected) -> None:
    from pyarrow import parquet

    output = written(tmp_path / "features.parquet", features)
    table = parquet.read_table(output.path)
    assert table["name"].to_pylist() == NAMES
    assert table["index"].to_pylist() == features.indices.tolist()
    assert features.labels is not None
    assert table["label"].to_pylist() == features.labels.tolist()
    assert json.loads(table.schema.metadata[b"classes"]) == list(pictures().classes or ())
    for column in COLUMNS:
        shape = json.loads(table.schema.field(column.name).metadata[b"shape"])
        assert tuple(shape) == column.shape
        found = np.stack(table[column.name].to_numpy()).reshape(-1, *shape)
        np.testing.assert_array_equal(found, rows(features, column))


def test_npz(tmp_path: Path, features: Collected) -> None:
    output = written(tmp_path / "features.npz", features)
    with np.load(output.path) as found:
        assert found["name"].tolist() == NAMES
        np.testing.assert_array_equal(found["index"], features.indices)
        np.testing.assert_array_equal(found["label"], features.labels)
        assert found["classes"].tolist() == list(pictures().classes or ())
        for column in COLUMNS:
            np.testing.assert_array_equal(found[column.name], rows(features, column))


@pytest.mark.parametrize("mapped", [True, False])
def test_pt(tmp_path: Path, features: Collected, mapped: bool) -> None:
    output = written(tmp_path / "features.pt", features)
    found = torch.load(output.path, weights_only=True, mmap=mapped)
    assert found["name"] == NAMES
    assert found["classes"] == list(pictures().classes or ())
    for column in COLUMNS:
        np.testing.assert_array_equal(found[column.name], rows(features, column))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "features.pt",
        "features.pt.json",
        "features.pt.skipped.txt",
    ]


def test_npy_has_pooled_tokens_beside_each_other(tmp_path: Path, features: Collected) -> None:
    output = written(tmp_path / "features.npy", features, POOLED)
    found = np.load(output.path)
    np.testing.assert_array_equal(found, np.concatenate([rows(features, column) for column in POOLED], axis=1))
    with (tmp_path / "features.npy.names.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == NAMES
    assert lines[3] == {"index": "5", "name": "pictures/0005", "label": "1", "class": "class1"}


def test_npy_has_all_patches_of_a_layer(tmp_path: Path, features: Collected) -> None:
    columns = columns_of(("patches",), (1,), dim=16, patches=16)
    found = np.load(written(tmp_path / "features.npy", features, columns).path)
    assert found.shape == (20, 16, 16)
    np.testing.assert_array_equal(found, rows(features, columns[0]))


def test_npy_can_hold_no_more_than_an_array(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.npy holds one array"):
        Output(tmp_path / "features.npy", COLUMNS)
    with pytest.raises(UserError, match=r"expected a file that ends in \.parquet, \.npy, \.npz, \.pt"):
        Output(tmp_path / "features.csv", COLUMNS)


@pytest.mark.parametrize("ending", ["parquet", "npy", "npz", "pt"])
def test_the_same_features_are_the_same_bytes(tmp_path: Path, features: Collected, ending: str) -> None:
    (tmp_path / "other").mkdir()
    one, other = (written(folder / f"features.{ending}", features, POOLED) for folder in (tmp_path, tmp_path / "other"))
    assert one.path.read_bytes() == other.path.read_bytes()


@pytest.mark.parametrize("ending", ["parquet", "npy", "npz", "pt"])
def test_columns_are_read_back_for_a_search(
    tmp_path: Path, features: Collected, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinotrain.embedding.array_files.AT_ONCE", 200)
    monkeypatch.setattr("dinotrain.embedding.parquet_file.GROUP_BYTES", 2000)
    output = written(tmp_path / f"features.{ending}", features, POOLED)
    for column in POOLED:
        wanted = rows(features, column)
        blocks = list(output.blocks(column))
        assert len(blocks) > 1
        np.testing.assert_array_equal(np.concatenate(blocks), wanted)
    found = nearest_in(output.blocks(POOLED[0]), torch.from_numpy(rows(features, POOLED[0])), 3)
    unit = torch.nn.functional.normalize(torch.from_numpy(rows(features, POOLED[0])), dim=1)
    values, order = (unit @ unit.T).sort(dim=1, descending=True)
    assert found.index[:, 0].tolist() == list(range(20))
    torch.testing.assert_close(found.similarity, values[:, :3])
    assert found.index.tolist() == order[:, :3].tolist()


def test_the_record_tells_what_is_there(tmp_path: Path, features: Collected) -> None:
    output = written(tmp_path / "features.npz", features)
    record = json.loads((tmp_path / "features.npz.json").read_text())
    assert record["features"] == ABOUT
    assert record["made"] == "here"
    assert record["images"] == 20
    assert record["skipped"] == [3, 4, 22]
    lines = (tmp_path / "features.npz.skipped.txt").read_text().splitlines()
    assert lines == [f"pictures/{index:04d}\tbroken on purpose" for index in (3, 4, 22)]
    assert output.is_done(ABOUT)
    # Numbers that differ in the last bits alone are as good.
    assert output.is_done({**ABOUT, "batch": 8, "device": "cuda"})
    with pytest.raises(UserError, match="size: 16 there, 32 here"):
        output.is_done({**ABOUT, "size": 32})
    with output.path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="none of this command"):
        output.is_done(ABOUT)
    with pytest.raises(UserError, match="none of this command"):
        output.remove()


def test_a_full_disk_leaves_no_half_a_file(
    tmp_path: Path, features: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, features: Collected) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(__import__("dinotrain.embedding.output").embedding.output.WRITERS, ".npz", full)
    with pytest.raises(UserError, match=r"out: can't write .*No space left on device.*what is done is kept"):
        written(tmp_path / "features.npz", features)
    assert not list(tmp_path.glob("features.npz*.new"))
    assert not (tmp_path / "features.npz").exists()
