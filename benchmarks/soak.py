"""Load for a long time while data workers are killed at random, and look for what is left behind.

    python benchmarks/soak.py --minutes 30

Every batch is compared with what a loader without workers makes. Workers are killed (SIGKILL) at random moments: the
loader must go on with the very same batches, or say in one line why it stops. Now and then it is ended in the middle
and begun again, or its whole process is killed. Then no worker may remain, no shared memory, no open file.
"""

from __future__ import annotations

import argparse
import gc
import io
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinotrain.data.augment import Augment
from dinotrain.data.batch import Batch
from dinotrain.data.crops import MultiCrop
from dinotrain.data.loader import Loader
from dinotrain.data.masks import MaskSampler
from dinotrain.data.source import Source
from dinotrain.errors import UserError

PATIENCE = 60  # seconds that the next batch, or the end of a worker, may take
SHARED_MEMORY = Path("/dev/shm")


class Pictures(Source):
    """JPEG files in memory."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.files = []
        for _ in range(count):
            pixels = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((128, 96))
            pixels.save(file := io.BytesIO(), "JPEG")
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        return self.files[index]

    def name(self, index: int) -> str:
        return f"picture {index}"

    def fingerprint(self) -> str:
        return "pictures"


class Soak:
    def __init__(self, workers: int, seed: int) -> None:
        self.workers, self.random = workers, random.Random(seed)
        self.source, self.batch = Pictures(100), 0
        self.counts: Counter[str] = Counter()
        self.longest_wait = 0.0

    def loader(self, workers: int, warnings: list[str]) -> Loader:
        return Loader(
            source=self.source,
            crops=MultiCrop(global_size=32, local_size=16, num_local=4),
            augment=Augment(),
            masks=MaskSampler(grid=2, group=4, seed=0),
            global_batch=16,
            micro_batch=8,
            seed=0,
            workers=workers,
            start_step=self.batch // 2,
            warn=warnings.append,
        )

    def session(self, deadline: float) -> None:
        """From where the last one stopped, for some batches or until the loader gives up."""
        warnings: list[str] = []
        sides = self.loader(self.workers, warnings), self.loader(0, warnings)
        batches, expected = (islice(side, self.batch % 2, None) for side in sides)
        try:
            for _ in range(self.random.randrange(1, 300)):
                if time.monotonic() > deadline:
                    break
                if self.random.random() < 0.02:
                    self.kill_a_worker()
                self.compare(self.waited_for(batches), next(expected))
                self.batch += 1
        except UserError as error:
            self.counts["times that the loader gave up"] += 1
            warnings.append(str(error))
        for warning in warnings:
            check("died" in warning and "\n" not in warning, f"the loader said: {warning!r}")
        self.counts["workers noticed to be dead"] += len(warnings)

    def waited_for(self, batches: Iterator[Batch]) -> Batch:
        start = time.monotonic()
        signal.alarm(PATIENCE)
        batch = next(batches)
        signal.alarm(0)
        self.longest_wait = max(self.longest_wait, time.monotonic() - start)
        return batch

    def compare(self, batch: Batch, expected: Batch) -> None:
        for field, value in vars(expected).items():
            other = getattr(batch, field)
            same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
            check(same, f"batch {self.batch} differs in {field}")
        self.counts["batches"] += 1

    def kill_a_worker(self) -> None:
        workers = multiprocessing.active_children()
        if workers:
            time.sleep(self.random.random() * 0.02)
            self.random.choice(workers).kill()
            self.counts["workers killed"] += 1

    def kill_everything(self) -> None:
        """Kill a process in the middle of loading; its workers must see to their own end."""
        receiver, sender = multiprocessing.Pipe(duplex=False)
        victim = multiprocessing.get_context("fork").Process(target=self.load_for_ever, args=(sender,))
        victim.start()
        workers = receiver.recv()
        time.sleep(self.random.random() * 0.2)
        victim.kill()
        victim.join()
        wait_until(lambda: not any(is_running(worker) for worker in workers), "workers outlive their killed process")
        self.counts["processes killed with their workers"] += 1

    def load_for_ever(self, sender: Connection) -> None:
        batches = iter(self.loader(self.workers, []))
        next(batches)
        sender.send([process.pid for process in multiprocessing.active_children()])
        for _ in batches:
            pass


def check(holds: bool, problem: str) -> None:
    if not holds:
        raise SystemExit(problem)


def wait_until(holds: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        check(time.monotonic() < deadline, problem)
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def shared_files() -> set[str]:
    """Files in shared memory that no other process has mapped, and that are thus not for others to remove."""
    found = {str(path) for path in SHARED_MEMORY.iterdir()}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text().splitlines()
        except OSError:
            continue
        if maps.parent.name != str(os.getpid()):
            found -= {line.split(maxsplit=5)[-1] for line in lines if str(SHARED_MEMORY) in line}
    return found


def held_memory() -> int:
    """Shared memory of this process, kB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssShmem:")[2].split()[0])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    gc.collect()
    files, memory, descriptors = shared_files(), held_memory(), open_files()
    yield
    gc.collect()
    wait_until(lambda: not multiprocessing.active_children(), "workers remain")
    wait_until(lambda: shared_files() <= files, "files remain in shared memory")
    check(held_memory() <= memory + 64, f"shared memory grew from {memory} to {held_memory()} kB")
    check(open_files() <= descriptors, f"open files grew from {descriptors} to {open_files()}")


def give_up(signal_number: int, frame: object) -> None:
    raise SystemExit(f"no batch within {PATIENCE} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of what happens when")
    args = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, give_up)
    soak = Soak(args.workers, args.seed)
    deadline = time.monotonic() + 60 * args.minutes
    soak.session(deadline)  # what is made once, such as caches, is no leak
    with nothing_left_behind():
        while not soak.counts["sessions"] or time.monotonic() < deadline:
            with nothing_left_behind():
                soak.session(deadline)
                soak.counts["sessions"] += 1
                if soak.counts["sessions"] % 20 == 1:
                    soak.kill_everything()
    for what, count in soak.counts.items():
        print(f"{count:>9,} {what}")
    print(f"{soak.longest_wait:>9.1f} s longest wait for a batch")
    print("nothing left behind")


if __name__ == "__main__":
    main()
