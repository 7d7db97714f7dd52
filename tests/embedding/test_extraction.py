"""Features as they are stored, against the network asked image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from embedded_pictures import BROKEN, COLUMNS, COUNT, PREPARATION, backbone, collected, extract, pictures
from spawn import run_processes

from dinotrain.distributed.world import World
from dinotrain.embedding.parts import Parts
from dinotrain.embedding.plan import Plan
from dinotrain.errors import UserError

ALONE = World(0, 1, 0, 1, torch.device("cpu"), None)


def test_features_are_those_of_each_image_alone(tmp_path: Path) -> None:
    found = collected(tmp_path / "parts", ALONE)
    assert found.indices.tolist() == [index for index in range(COUNT) if index not in BROKEN]
    network = backbone()
    columns = {column.name: np.concatenate(list(found.rows(column.name))) for column in COLUMNS}
    for row, index in enumerate(found.indices.tolist()):
        images = network.normalize(PREPARATION.pixels(pictures().image(index)).unsqueeze(0))
        pooled = network.pooled(images, ["cls_1", "cls_2", "patch_1"])
        both = network.patches(images, 2).flatten(2).transpose(1, 2)[0]
        wanted = {
            "cls_1": pooled["cls_1"][0],
            "cls_2": pooled["cls_2"][0],
            "mean_1": pooled["patch_1"][0],
            "patches_1": both[:, 16:],
            "patches_2": both[:, :16],
            "mean_2": both[:, :16].mean(dim=0),
        }
        assert columns.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(columns[name][row], value, atol=2e-5, rtol=1e-5, err_msg=name)


def test_what_cannot_be_read_is_named_and_in_no_row(tmp_path: Path) -> None:
    found = collected(tmp_path / "parts", ALONE)
    assert len(found) == COUNT - len(BROKEN)
    assert [(index, skipped.name) for index, skipped in found.skipped] == [
        (index, f"pictures/{index:04d}") for index in BROKEN
    ]
    assert {skipped.reason for _, skipped in found.skipped} == {"broken on purpose"}
    assert list(found.names())[3] == "pictures/0005"
    labels = pictures().labels
    assert labels is not None
    assert found.labels is not None
    assert found.labels.tolist() == labels[found.indices].tolist()


def _share(rank: int, folder: str) -> list[str]:
    extract(Path(folder), World(rank, 2, rank, 2, torch.device("cpu"), dist.group.WORLD))
    return sorted(path.name for path in Path(folder).iterdir())


def test_two_processes_store_the_same_bytes_as_one(tmp_path: Path) -> None:
    extract(tmp_path / "one", ALONE)
    run_processes(2, _share, str(tmp_path / "two"))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 6
    assert one == two


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    parts = extract(tmp_path / "parts", ALONE)
    before = {path: path.read_bytes() for path in parts.folder.iterdir()}
    stamp = parts._path(1).stat().st_mtime_ns
    parts._path(2).unlink()
    extract(tmp_path / "parts", ALONE)
    assert {path: path.read_bytes() for path in parts.folder.iterdir()} == before
    assert parts._path(1).stat().st_mtime_ns == stamp


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    parts = extract(tmp_path / "parts", ALONE)
    path = parts._path(1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"00000001\.npz is damaged.*remove it"):
        parts.read(1, ("cls_1",))


def test_parts_of_other_features_are_refused(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", Plan(8, 4, 1))
    with parts.opened({"size": 16, "layers": [1]}):
        pass
    with parts.opened({"size": 16, "layers": [1]}):
        with pytest.raises(UserError, match="another process is at work"):
            with parts.opened({"size": 16, "layers": [1]}, begin=parts.remove):
                pass
        assert parts.folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]
    with pytest.raises(UserError, match=r"size: 16 there, 32 here; layers: \[1\] there, \[1, 2\] here.*again=true"):
        with parts.opened({"size": 32, "layers": [1, 2]}):
            pass
