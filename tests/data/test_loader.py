"""The loader: the same batches whatever the workers, processes and start; what goes wrong is said in one line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinotrain.data import photometric
from dinotrain.data.augment import Augment
from dinotrain.data.batch import Batch
from dinotrain.data.broken import BrokenImage
from dinotrain.data.crops import MultiCrop
from dinotrain.data.loader import Loader
from dinotrain.data.masks import MaskSampler
from dinotrain.data.order import sample_index, sample_rng
from dinotrain.data.photometric import Column
from dinotrain.data.source import Source
from dinotrain.errors import UserError


class _Source(Source):
    """Flat pictures whose level is their index; some broken."""

    def __init__(self, length: int = 50, broken: tuple[int, ...] = ()) -> None:
        self._length, self._broken = length, broken

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> np.ndarray:
        if index in self._broken:
            raise BrokenImage("cut short")
        return np.full((20, 24, 3), index, np.uint8)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def fingerprint(self) -> str:
        return "pictures"


class _Crops:
    """Crops that are the picture's level plus noise."""

    global_size, local_size = 8, 4

    def __init__(self, num_local: int = 3) -> None:
        self.num_local = num_local

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.random((1, 2 + self.num_local, 3 * 8 * 8))

    def admits(self, draws: np.ndarray, height: int, width: int) -> bool:
        return False

    def fill(self, image: np.ndarray, draws: np.ndarray, places: Sequence[Tensor]) -> None:
        for row, place in zip(draws[0], places, strict=True):
            noise = torch.from_numpy(row[: place.numel()] * 100).byte()
            place.copy_(noise.view(place.shape) + int(image[0, 0, 0]))


class _Flips:
    """Every other crop flipped."""

    num_params = len(Column)

    def draw(self, rng: np.random.Generator, num_local: int) -> np.ndarray:
        return rng.random((2 + num_local, 1))

    def table(self, draws: np.ndarray) -> np.ndarray:
        table = np.zeros((*draws.shape[:-1], len(Column)), np.float32)
        table[..., Column.FIRST : Column.FOURTH + 1] = -1
        table[..., Column.THRESHOLD] = 256
        table[..., Column.FLIP] = draws[..., 0] < 0.5
        return table


def _masks(positions: np.ndarray) -> np.ndarray:
    return np.stack([np.random.default_rng(position).random((2, 4)) < 0.4 for position in positions], axis=1)


def _loader(source: Source | None = None, **changes: Any) -> Loader:
    options: dict[str, Any] = {
        "crops": _Crops(),
        "augment": _Flips(),
        "masks": _masks,
        "global_batch": 8,
        "micro_batch": 4,
        "seed": 5,
    } | changes
    return Loader(source=source or _Source(), **options)


def _take(loader: Loader, count: int) -> list[Batch]:
    batches = iter(loader)
    taken = list(islice(batches, count))
    del batches
    return taken


def _assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        for field, value in vars(one).items():
            other = getattr(two, field)
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, field


def test_form_of_a_batch() -> None:
    loader = _loader()
    assert loader.micro_batches == 2
    batch = next(iter(loader))
    assert batch.global_crops.shape == (2, 4, 3, 8, 8)
    assert batch.local_crops.shape == (3, 4, 3, 4, 4)
    assert batch.global_crops.dtype == torch.float32
    assert batch.masks.shape == (2, 4, 4)
    assert torch.equal(batch.mask_indices, batch.masks.flatten().nonzero()[:, 0])
    counts = batch.masks.sum(-1).flatten()
    weights = torch.zeros(batch.masks.numel())
    weights[batch.mask_indices] = batch.mask_weights
    assert torch.allclose(weights.view(8, 4).sum(-1), (counts > 0).float())
    assert len(batch.names) == 4
    assert batch.skipped == ()


def test_without_masks_and_local_crops() -> None:
    batch = next(iter(_loader(masks=None, crops=_Crops(num_local=0))))
    assert batch.masks.shape == (2, 4, 0)
    assert batch.mask_indices.shape == batch.mask_weights.shape == (0,)
    assert batch.local_crops.shape == (0, 4, 3, 4, 4)


def test_pixels_are_normalised_views_of_their_sample() -> None:
    batch = next(iter(_loader(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))))
    levels = (batch.global_crops * 0.25 + 0.5) * 255
    for slot, name in enumerate(batch.names):
        index = int(name.split()[1])
        assert levels[:, slot].min() >= index - 0.01
        assert levels[:, slot].max() < index + 100


class _Noise(_Source):
    def read(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)


@pytest.mark.parametrize(("workers", "in_workers"), [(0, False), (1, False), (1, True)])
def test_with_the_crops_and_masks_of_the_recipe(workers: int, in_workers: bool) -> None:
    source = _Noise(30)
    crops = MultiCrop(global_size=16, local_size=8, num_local=2)
    masks = MaskSampler(grid=4, group=4, seed=3)
    augment = Augment()
    options = {"crops": crops, "augment": augment, "masks": masks, "seed": 3, "workers": workers}
    batches = _take(_loader(source, augment_in_workers=in_workers, **options), 4)
    position = 13
    index = int(sample_index(position, 30, 3))
    batch, slot = batches[position // 4], position % 4
    assert batch.names[slot] == source.name(index)
    assert np.array_equal(batch.masks.numpy(), masks(np.arange(12, 16)))
    global_out, local_out = torch.empty(2, 16, 16, 3, dtype=torch.uint8), torch.empty(2, 8, 8, 3, dtype=torch.uint8)
    rng = sample_rng(3, position)
    draws = crops.draw(rng)
    params = torch.from_numpy(augment.parameters(rng, 2))
    crops.cut(source.image(index), draws, global_out, local_out)
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert torch.equal(batch.global_crops[:, slot], photometric.augment(global_out, params[:2], **statistics))
    assert torch.equal(batch.local_crops[:, slot], photometric.augment(local_out, params[2:], **statistics))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    source = _Source(broken=(3, 17, 18))
    _assert_same(_take(_loader(source), 20), _take(_loader(source, workers=workers), 20))


def test_processes_share_the_same_samples() -> None:
    source = _Source(broken=(3, 17))
    whole = _take(_loader(source, global_batch=24, micro_batch=12), 6)
    shares = [_take(_loader(source, global_batch=24, micro_batch=6, world_size=2, rank=rank), 6) for rank in (0, 1)]
    for one, *parts in zip(whole, *shares, strict=True):
        for field in ("global_crops", "local_crops", "masks"):
            assert torch.equal(getattr(one, field), torch.cat([getattr(part, field) for part in parts], dim=1))
        assert one.names == parts[0].names + parts[1].names
        assert one.skipped == parts[0].skipped + parts[1].skipped


def test_micro_batches_share_the_same_samples() -> None:
    whole = _take(_loader(micro_batch=8), 4)
    parts = _take(_loader(micro_batch=2), 16)
    names = [name for batch in whole for name in batch.names]
    assert names == [name for batch in parts for name in batch.names]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_in_the_middle_equals_running_to_it(workers: int) -> None:
    run = _take(_loader(), 2 * 9)
    _assert_same(run[2 * 7 :], _take(_loader(start_step=7, workers=workers), 4))


def test_every_sample_once_in_an_epoch() -> None:
    names = [name for batch in _take(_loader(_Source(40)), 20) for name in batch.names]
    assert len(set(names[:40])) == len(set(names[40:])) == 40
    assert names[:40] != names[40:]


def test_it_stops_before_its_last_step() -> None:
    assert len(list(_loader(start_step=2, steps=5))) == 6
    assert list(_loader(start_step=5, steps=5)) == []


def test_the_random_state_of_the_process_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _take(_loader(), 3)
    _take(_loader(workers=1), 3)
    assert torch.equal(torch.rand(3), expected)


def test_broken_samples_are_replaced_and_reported() -> None:
    broken = (3, 17, 18)
    whole, clean = _take(_loader(_Source(broken=broken)), 25), _take(_loader(), 25)
    skipped = [skip for batch in whole for skip in batch.skipped]
    assert {skip.name for skip in skipped} == {f"picture {index}" for index in broken}
    assert {skip.reason for skip in skipped} == {"cut short"}
    for one, other in zip(whole, clean, strict=True):
        for name, was in zip(one.names, other.names, strict=True):
            assert (name == was) == (int(was.split()[1]) not in broken)
            assert int(name.split()[1]) not in broken


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("length", [1, 3, 500])
def test_nothing_but_broken_samples(length: int, workers: int) -> None:
    loader = _loader(_Source(length, broken=tuple(range(length))), workers=workers)
    with pytest.raises(UserError, match=rf"data\.root: {min(length, 33)} images in a row can't be read .*cut short"):
        next(iter(loader))


class _Faulty(_Source):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def read(self, index: int) -> np.ndarray:
        if index == 20:
            raise self._error
        return super().read(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_carry_the_name_of_the_sample(workers: int) -> None:
    with pytest.raises(RuntimeError, match="picture 20: KeyError: 'shard'"):
        list(_loader(_Faulty(KeyError("shard")), workers=workers, steps=20))
    with pytest.raises(UserError, match=r"^the disk is full$"):
        list(_loader(_Faulty(UserError("the disk is full")), workers=workers, steps=20))


class _Deadly(_Source):
    """Its picture 20 ends the worker that reads it, as often as it may."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self._deaths = torch.tensor([deaths]).share_memory_()

    def read(self, index: int) -> np.ndarray:
        if index == 20 and self._deaths[0] > 0:
            self._deaths -= 1
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def test_an_image_that_kills_workers_is_named() -> None:
    start, told = time.monotonic(), []
    with pytest.raises(UserError, match=r"runtime\.workers: a data worker died while it read picture 20 ") as caught:
        list(_loader(_Deadly(100), workers=2, steps=20, warn=told.append))
    assert time.monotonic() - start < 30
    assert "\n" not in str(caught.value)
    assert "picture 20" in told[0]


def test_after_the_death_of_a_worker_the_batches_go_on_as_if_nothing_had_happened() -> None:
    told = []
    batches = list(_loader(_Deadly(1), workers=2, steps=20, warn=told.append))
    _assert_same(batches, list(_loader(steps=20)))
    assert len(told) == 1
    assert "a data worker died while it read picture 20" in told[0]


class _Slow(_Source):
    def read(self, index: int) -> np.ndarray:
        if index == 20:
            time.sleep(2.5)
        return super().read(index)


def test_a_slow_image_is_waited_for() -> None:
    told = []
    _assert_same(list(_loader(_Slow(), workers=1, steps=8, warn=told.append)), list(_loader(steps=8)))
    assert not told


def test_two_iterations_at_once_do_not_meddle() -> None:
    loader = _loader(workers=1, steps=6)
    first = iter(loader)
    got = [next(first)]
    _assert_same(list(loader), list(_loader(steps=6)))
    got += first
    _assert_same(got, list(_loader(steps=6)))


class _LongNames(_Source):
    def name(self, index: int) -> str:
        return f"{'very/' * 40}long {index}"


def test_a_worker_killed_while_the_trainer_is_busy_does_not_hang_it() -> None:
    """Messages that wait for a slow trainer must not fill the pipe, in which one would be cut by the kill."""
    told = []
    options = {"global_batch": 64, "micro_batch": 64, "crops": _Crops(num_local=0), "steps": 24}
    before = _child_processes()
    batches = iter(_loader(_LongNames(200), workers=4, prefetch=4, warn=told.append, **options))
    got = [next(batches)]
    time.sleep(1)
    for pid in _child_processes() - before:
        os.kill(pid, signal.SIGKILL)
    got += batches
    assert [batch.names for batch in got] == [batch.names for batch in _loader(_LongNames(200), **options)]
    assert len(told) == 1


def test_an_error_that_is_kept_leaves_no_worker_behind() -> None:
    before = _child_processes()
    kept = None
    try:
        list(_loader(_Faulty(UserError("the disk is full")), workers=2, steps=20))
    except UserError as error:
        kept = error
    assert kept is not None
    assert not _child_processes() - before


def _child_processes() -> set[int]:
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as children:
        return {int(pid) for pid in children.read().split()}


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds the workers in /proc")
def test_signals_to_the_job_do_not_stop_the_workers() -> None:
    expected = _take(_loader(), 12)
    before = _child_processes()
    batches = iter(_loader(workers=2))
    got = [next(batches), next(batches)]
    workers = _child_processes() - before
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    got += islice(batches, 10)
    _assert_same(expected, got)
    del batches
    deadline = time.monotonic() + 10
    while _child_processes() & workers and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _child_processes() & workers


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"global_batch": 10}, "global_batch"),
        ({"global_batch": 8, "world_size": 3}, "global_batch"),
        ({"global_batch": 0}, "global_batch"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"workers": -1}, "workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"rank": 1}, "rank"),
    ],
)
def test_values_are_checked(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got"):
        _loader(**changes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_on_the_gpu_are_those_of_the_cpu(workers: int) -> None:
    for one, two in zip(_take(_loader(), 6), _take(_loader(device="cuda", workers=workers), 6), strict=True):
        assert two.global_crops.is_cuda
        assert torch.allclose(one.global_crops, two.global_crops.cpu(), atol=1e-5)
        assert torch.equal(one.masks, two.masks.cpu())
        assert torch.equal(one.mask_indices, two.mask_indices.cpu())
        assert one.names == two.names
