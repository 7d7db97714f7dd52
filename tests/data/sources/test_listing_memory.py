"""What a list of 10 million images costs a worker."""

from __future__ import annotations

import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dinotrain.data.sources.listing import ListSource

IMAGES = 10_000_000
LINE = np.frombuffer(b"train/n00000000/n00000000_00000000.JPEG\t0000\n", np.uint8)


def _write(file: Path) -> None:
    """Images 0, 1, 2, ... of 1000 classes."""
    digits = np.array([list(b"%04d" % number) for number in range(10_000)], np.uint8)
    lines = np.tile(LINE, (10_000, 1))
    with open(file, "wb") as out:
        for label in range(IMAGES // 10_000):
            lines[:, 11:15] = lines[:, 26:30] = lines[:, 40:44] = digits[label]
            lines[:, 30:34] = digits
            out.write(lines.tobytes())


def _name(number: int) -> str:
    return f"train/n{number // 10_000:08d}/n00000000_{number:08d}.JPEG"


def _private_megabytes() -> float:
    """Memory of this process that no other shares."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024


def _work(source: ListSource, pipe: Connection) -> None:
    """What a worker does with a source, but for the images, long enough to have come by every page."""
    indices = source.order()(np.arange(200_000), seed=0)
    assert source.labels is not None
    wrong = [index for index in indices.tolist() if source.name(index) != _name(index)]
    pipe.send((_private_megabytes(), len(wrong), bool((source.labels[indices] == indices // 10_000).all())))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_million_images_cost_a_worker_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "list.txt"
    _write(file)
    monkeypatch.setattr(
        "dinotrain.data.sources.list_file.time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10)
    )
    ListSource(root=file)
    start = time.monotonic()
    source = ListSource(root=file)
    assert time.monotonic() - start < 3
    assert len(source) == IMAGES
    assert source.fingerprint().startswith("list:10000000:")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(source, sender))
    worker.start()
    sender.close()
    megabytes, wrong, labels_right = receiver.recv()
    worker.join()
    assert wrong == 0
    assert labels_right
    assert megabytes < 100
