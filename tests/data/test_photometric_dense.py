"""The photometric augmentation for compilation: the same numbers as the one that picks its rows."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinotrain.data import photometric_dense
from dinotrain.data.augment import Augment
from dinotrain.data.order import sample_rng
from dinotrain.data.photometric import Column, augment
from dinotrain.data.photometric_dense import compiled_augment, dense, program

_STATISTICS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _levels(x: Tensor) -> Tensor:
    """Normalised numbers -> levels."""
    mean, std = (torch.tensor(_STATISTICS[kind]).view(3, 1, 1) for kind in ("mean", "std"))
    return (x.cpu() * std + mean) * 255


def _crops(count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    crops = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    crops[::3] //= 40  # dark, and with channels in common
    crops[1::5, ..., 1] = crops[1::5, ..., 0]
    return crops


def _drawn(count: int, **keys: Any) -> Tensor:
    """Tables with all that is ever drawn."""
    strong = {"vertical_flip": 0.3, "hue": 0.5, "saturation": 0.8, "solarize_global2": 0.6, "grayscale": 0.1}
    draws = (Augment(**{**strong, **keys}).parameters(sample_rng(5, i), 2) for i in range(-(-count // 4)))
    return torch.from_numpy(np.concatenate([*draws])[:count].copy())


def _apply(crops: Tensor, rows: Tensor) -> Tensor:
    return dense(crops, program(rows, **_STATISTICS))


@pytest.mark.parametrize(("count", "side"), [(300, 16), (48, 57)])
def test_equal_to_the_other(count: int, side: int) -> None:
    crops, rows = _crops(count, side), _drawn(count)
    assert torch.equal(_apply(crops, rows), augment(crops, rows, **_STATISTICS))


def test_every_order_of_the_colour_operations() -> None:
    orders = [*itertools.permutations((1, 2, 3, 4)), *itertools.permutations((-1, 1, 3, 4)), (2, -1, -1, -1)]
    rows = _drawn(1).repeat(len(orders), 1)
    rows[:, Column.FIRST : Column.FOURTH + 1] = torch.tensor(orders)
    rows[:, Column.BRIGHTNESS : Column.HUE + 1] = torch.tensor((1.3, 0.7, 1.6, 0.2))
    crops = _crops(1, 24).repeat(len(orders), 1, 1, 1)
    assert torch.equal(_apply(crops, rows), augment(crops, rows, **_STATISTICS))


@pytest.mark.parametrize("kernel", [1, 3, 13])
def test_any_kernel(kernel: int) -> None:
    rows, crops = _drawn(40, blur_kernel=kernel), _crops(40, 20)
    assert torch.equal(_apply(crops, rows), augment(crops, rows, **_STATISTICS))


def test_crops_too_small_for_a_blur_that_they_never_have() -> None:
    rows, crops = _drawn(12, blur_global1=0, blur_global2=0, blur_local=0), _crops(12, 3)
    assert torch.equal(_apply(crops, rows), augment(crops, rows, **_STATISTICS))


def _unchecked() -> ModuleType:
    """The module without the run-time type checks of the tests, which can't be compiled."""
    spec = importlib.util.spec_from_file_location("unchecked_dense", photometric_dense.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_graph() -> None:
    graph = torch.compile(_unchecked().dense, backend="eager", fullgraph=True, dynamic=False)
    rows, crops = _drawn(12), _crops(12, 16)
    assert torch.equal(graph(crops, program(rows, **_STATISTICS)), augment(crops, rows, **_STATISTICS))


def test_nothing_is_compiled_for_no_crops() -> None:
    empty = compiled_augment(**_STATISTICS)(torch.empty(0, 8, 8, 3, dtype=torch.uint8), torch.empty(0, len(Column)))
    assert empty.shape == (0, 3, 8, 8)


def test_tables_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^params: got 3 columns, expected 13$"):
        program(torch.zeros(1, 3), **_STATISTICS)
    rows = _drawn(1)
    rows[0, Column.FIRST : Column.FOURTH + 1] = torch.tensor((1, 2, 1, -1))
    with pytest.raises(ValueError, match=r"^params: got brightness twice in one row, expected it once$"):
        program(rows, **_STATISTICS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # within the compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_on_a_cpu() -> None:
    import torch._inductor.config as inductor

    # Without vectors the C++ compiler is done in a third of the time.
    with inductor.patch({"cpp.simdlen": 1}):
        _compare(_unchecked().compiled_augment(**_STATISTICS), "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_on_a_gpu() -> None:
    _compare(_unchecked().compiled_augment(**_STATISTICS), "cuda")


def _compare(function: Callable[[Tensor, Tensor], Tensor], device: str) -> None:
    crops, rows = _crops(64, 30), _drawn(64)
    difference = (_levels(function(crops.to(device), rows)) - _levels(augment(crops, rows, **_STATISTICS))).abs()
    # A level that a device rounds to its neighbour may become one more or less in what follows, and inverted a lot.
    assert (difference > 0.01).float().mean() < 1e-3
    assert (difference > 1.01).float().mean() < 1e-4
