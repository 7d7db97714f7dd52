"""Features are extracted once: what is asked for again comes from the disk."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from evaluation_images import Drawn
from spawn import run_processes

from dinotrain.distributed.world import World
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import Split, whole
from dinotrain.evaluation.store import FeatureStore

PREPARATION = Preparation(size=16, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, rank, size, torch.device("cpu"), None)


def setting_of(
    folder: Path | None, source: Drawn, *, here: World | None = None, identity: str | None = "w", batch: int = 4
) -> Setting:
    here = here or world()
    return Setting(
        backbone=Backbone(tiny.backbone(), PREPARATION),
        world=here,
        train=whole(source, "train"),
        test=whole(source, "test"),
        store=FeatureStore(folder, here),
        identity=identity,
        batch=batch,
    )


def test_images_are_read_once_for_all_that_is_asked_of_them(tmp_path: Path) -> None:
    source = Drawn(11, labels=[0] * 11)
    first = setting_of(tmp_path, source).features(whole(source, "train"))
    again = setting_of(tmp_path, source).features(whole(source, "test"))
    assert source.reads.tolist() == [1] * 11
    assert torch.equal(first.values, again.values)
    assert isinstance(np.load(next(tmp_path.rglob("cls_1.npy")), mmap_mode="r"), np.memmap)


def test_only_what_is_missing_is_extracted(tmp_path: Path) -> None:
    source = Drawn(5)
    setting = setting_of(tmp_path, source)
    last = setting.features(setting.train).values
    both = setting.features(setting.train, ("cls_1", "patch_1")).values
    assert torch.equal(both[:, : last.shape[1]], last)
    setting.features(setting.train, ("patch_1",))
    assert source.reads.tolist() == [2] * 5


@pytest.mark.parametrize("change", ["weights", "images", "broken", "size", "order"])
def test_other_weights_images_or_resolution_have_features_of_their_own(tmp_path: Path, change: str) -> None:
    source = Drawn(6)
    before = setting_of(tmp_path, source)
    before.features(before.train)
    after = setting_of(tmp_path, source, identity="v" if change == "weights" else "w")
    split = after.train
    if change == "images":
        # Of the same names: a corrupted copy, or the test images of a folder with the same file names.
        split = whole(Drawn(6, seed=1), "train")
    elif change == "broken":
        split = whole(Drawn(6, broken=[2]), "train")
    elif change == "size":
        after.backbone.preparation = Preparation(size=8, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    elif change == "order":
        split = Split(source, np.arange(6)[::-1], "train")
    after.features(split)
    assert len(list(tmp_path.rglob("cls_1.npy"))) == 2


def test_features_are_those_of_the_network(tmp_path: Path) -> None:
    source = Drawn(7, labels=range(7), broken=[3])
    setting = setting_of(tmp_path, source)
    found = setting.features(setting.train, ("cls_2", "patch_1"))
    rows = [0, 1, 2, 4, 5, 6]
    assert found.rows.tolist() == rows
    assert found.labels is not None
    assert found.labels.tolist() == rows
    images = PREPARATION.normalize(torch.stack([PREPARATION.pixels(source.image(row)) for row in rows]))
    with torch.no_grad():
        early, late = setting.backbone.network.intermediate(images, [-2, -1])
    torch.testing.assert_close(found.values, torch.cat([early.cls, late.patches.mean(1)], dim=1), atol=1e-5, rtol=1e-5)


def test_what_is_put_together_is_mapped_from_a_file_where_it_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Drawn(9, labels=range(9), broken=[4])
    setting = setting_of(tmp_path, source)
    parts = ("cls_2", "cls_1", "patch_1")
    in_memory = setting.features(setting.train, parts)
    assert len(list(tmp_path.rglob("joined.npy"))) == 0
    monkeypatch.setattr("dinotrain.evaluation.setting.JOINED_IN_MEMORY", 0)
    monkeypatch.setattr("dinotrain.evaluation.setting.JOINED_AT_ONCE", 3)
    for _ in range(2):
        mapped = setting.features(setting.train, parts)
        assert torch.equal(mapped.values, in_memory.values)
        assert mapped.rows.tolist() == in_memory.rows.tolist()
        assert len(list(tmp_path.rglob("joined.npy"))) == 1
    assert len(setting.features(setting.train).values) == 8


def test_a_cut_file_counts_as_none(tmp_path: Path) -> None:
    source = Drawn(9)
    setting = setting_of(tmp_path, source)
    want = setting.features(setting.train).values.clone()
    path = next(tmp_path.rglob("cls_1.npy"))
    os.truncate(path, path.stat().st_size - 40)
    assert torch.equal(setting_of(tmp_path, source).features(setting.train).values, want)


def test_what_was_not_used_for_longest_is_removed(tmp_path: Path) -> None:
    for number in range(3):
        store = FeatureStore(tmp_path, world(), limit_gb=1e-9)
        setting = setting_of(tmp_path, Drawn(4 + number))
        object.__setattr__(setting, "store", store)
        setting.features(setting.train)
    assert len(list(tmp_path.rglob("cls_1.npy"))) == 1


def test_a_folder_that_cannot_be_written_to_costs_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = Drawn(4)
    setting = setting_of(tmp_path / "file", source)
    with pytest.warns(UserWarning, match="can't keep features"):
        first = setting.features(setting.train)
    assert torch.equal(setting.features(setting.train).values, first.values)
    assert source.reads.tolist() == [1] * 4


def test_a_file_that_could_not_be_read_once_counts_in_no_part(tmp_path: Path) -> None:
    source = Drawn(6, broken=[3])
    setting = setting_of(tmp_path, source)
    split = setting.train
    assert 3 not in setting.features(split).rows
    source.broken = ()  # the disk is there again; the split is the same to whoever asks now
    both = setting.features(split, ("cls_1", "patch_1"))
    assert 3 not in both.rows
    assert len(both.values) == 5
    assert 3 in setting.features(split, ("patch_1",)).rows


def test_images_none_of_which_can_be_read_are_told() -> None:
    setting = setting_of(None, Drawn(3, broken=[0, 1, 2]))
    with pytest.raises(UserError, match="data: none of the train images can be read"):
        setting.features(setting.train)


def test_a_disk_without_room_costs_a_warning_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    source = Drawn(9)
    setting = setting_of(tmp_path, source)
    with pytest.warns(UserWarning, match="can't keep features in .*No space left"):
        found = setting.features(setting.train)
    assert len(found.rows) == 9
    assert not list(tmp_path.iterdir())


def test_what_a_stopped_job_began_is_removed(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, Drawn(20))
    calls = []

    def stop() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    object.__setattr__(setting, "check", stop)
    with pytest.raises(KeyboardInterrupt):
        setting.features(setting.train)
    assert not list(tmp_path.iterdir())


def test_what_killed_jobs_left_is_removed_and_pushes_nothing_out(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, Drawn(4))
    setting.features(setting.train)
    for name, age in (("unfinished_old", 30 * 24 * 3600), ("unfinished_new", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cls_1.npy").write_bytes(bytes(10**6))
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    setting = setting_of(tmp_path, Drawn(5))
    object.__setattr__(setting, "store", FeatureStore(tmp_path, world(), limit_gb=1e-4))
    setting.features(setting.train)
    assert not (tmp_path / "unfinished_old").exists()
    assert (tmp_path / "unfinished_new").exists()
    assert len(list(tmp_path.glob("*/about.json"))) == 2


def test_features_for_once_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOTRAIN_CACHE", str(tmp_path))
    source = Drawn(5)
    setting = setting_of(None, source)
    with FeatureStore.for_once(world()) as store:
        object.__setattr__(setting, "store", store)
        setting.features(setting.train)
        setting.features(setting.test)
        assert len(list(tmp_path.rglob("cls_1.npy"))) == 1
    assert source.reads.tolist() == [1] * 5
    assert not list(tmp_path.glob("features/*"))


def test_weights_that_may_change_are_not_kept() -> None:
    source = Drawn(4)
    setting = setting_of(None, source, identity=None)
    setting.features(setting.train)
    setting.features(setting.test)
    assert source.reads.tolist() == [1] * 4
    another = setting_of(None, source, identity=None)
    another.features(another.train)
    assert source.reads.tolist() == [2] * 4


def _extracted(rank: int, size: int, folder: str | None) -> tuple[torch.Tensor, list[int], list[int]]:
    import torch.distributed as dist

    source = Drawn(23, broken=[5])
    control = dist.new_group(backend="gloo")
    here = World(rank, size, rank, size, torch.device("cpu"), control)
    setting = setting_of(Path(folder) if folder else None, source, here=here)
    found = setting.features(setting.train, ("cls_1", "patch_1"))
    return found.values.clone(), found.rows.tolist(), source.reads.tolist()


@pytest.mark.parametrize("to_disk", [False, True])
def test_several_processes_share_the_images_and_have_the_same_features(tmp_path: Path, to_disk: bool) -> None:
    setting = setting_of(None, Drawn(23, broken=[5]))
    alone = setting.features(setting.train, ("cls_1", "patch_1"))
    results = run_processes(3, _extracted, 3, str(tmp_path) if to_disk else None)
    for values, rows, _ in results:
        torch.testing.assert_close(values, alone.values, atol=1e-6, rtol=1e-6)
        assert rows == alone.rows.tolist()
    reads = np.sum([reads for _, _, reads in results], axis=0)
    assert reads.max() <= 2
    assert reads.sum() <= 23 + 3 * 2  # each round is filled up so that all call the network equally often
    assert not list(tmp_path.glob("unfinished_*"))
