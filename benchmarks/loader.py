"""Images per second and core of the input pipeline: ours against plain Pillow with the same augmentation.

    python benchmarks/loader.py
    python benchmarks/loader.py --root /data/photos --resize --json out.json

All variants take turns on the same JPEG files; what is reported is processor time per image, and how many times that of
the yardstick is as long, each the median of all rounds. "one process" leaves out what it costs to hand crops from a
worker to the main process. "one worker" is the real thing: a worker process fills batches of 16 images, the main
process takes them over, and the time of both counts, start-up apart. The yardstick is a stock torch DataLoader over
`plain_pillow.py`, with a collation to half precision. Ours are batches in bytes, with the numbers of an augmentation
that is left to the device.

Files are generated; or are those of a folder as they are, or with --resize made to the sizes wanted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import plain_pillow
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from dinotrain.data import jpeg
from dinotrain.data.allocator import keep_freed_memory
from dinotrain.data.augment import Augment
from dinotrain.data.crops import MultiCrop
from dinotrain.data.feed import Feed
from dinotrain.data.images import EXTENSIONS, read_file
from dinotrain.data.source import Source
from dinotrain.data.worker import Recipe

BATCH = 16
WARM_UP = 4  # batches
YARDSTICK = "plain Pillow"


class Photographs(Source):
    def __init__(self, paths: list[Path]) -> None:
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        return read_file(self.paths[index])

    def name(self, index: int) -> str:
        return self.paths[index]

    def fingerprint(self) -> str:
        return "photographs"


class FullSizeCrops(MultiCrop):
    """Crops of images that are always decoded at their full size."""

    def admits(self, *_: Any) -> bool:
        return False


def plain(paths: list[Path], workers: int) -> Iterator[object]:
    dataset = plain_pillow.Photographs(paths, 10**6)
    if workers:
        # Its memory is kept as ours is, from which it gains as well.
        start, collate = lambda _: keep_freed_memory(), plain_pillow.collate
        yield from DataLoader(dataset, BATCH, num_workers=workers, collate_fn=collate, worker_init_fn=start)
    for first in range(0, len(dataset), BATCH):
        yield [dataset[index] for index in range(first, first + BATCH)]


def ours(paths: list[Path], workers: int, *, decoder: str, crops: MultiCrop) -> Iterator[object]:
    jpeg.use_decoder(decoder)
    recipe = Recipe(source=Photographs(paths), crops=crops, augment=Augment(), masks=None, seed=0, augment_here=False)
    feed = Feed(recipe, global_batch=BATCH, micro_batch=BATCH, rank=0, world_size=1, workers=workers, prefetch=2)
    for assembled in feed:
        assembled.release(None)
        yield assembled
        jpeg.use_decoder(decoder)  # without workers, others have had their turn


Variant = Callable[[list[Path], int], Iterator[object]]


def variants() -> dict[str, Variant]:
    found: dict[str, Variant] = {YARDSTICK: plain}
    for decoder in ("pillow", "simplejpeg"):
        try:
            jpeg.use_decoder(decoder)
        except ImportError:
            print(f"{decoder} is not installed\n")
            continue
        found[f"ours, {decoder}, full size"] = partial(ours, decoder=decoder, crops=FullSizeCrops())
        found[f"ours, {decoder}"] = partial(ours, decoder=decoder, crops=MultiCrop())
    return found


class Side:
    """One of those that take turns."""

    def __init__(self, batches: Iterator[object]) -> None:
        others = multiprocessing.active_children()
        self._batches, self._here = batches, 0.0
        self.take(WARM_UP)
        self._workers = [process.pid for process in multiprocessing.active_children() if process not in others]

    def take(self, count: int) -> None:
        start = time.process_time()
        for _ in range(count):
            next(self._batches)
        self._here += time.process_time() - start

    def processor_seconds(self) -> float:
        """Spent until now in this process and the workers."""
        total = self._here
        for process in self._workers:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total


def measure(paths: list[Path], workers: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds per image of each variant, one number per round.

    At the start of a turn the workers are idle, as those of the turn before, for they have prepared their batches.
    """
    sides = {name: Side(variant(paths, workers)) for name, variant in variants().items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    taken, spent = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0.0)
    for round_ in range(args.rounds + 1):
        for name, side in sides.items():
            now = side.processor_seconds()
            if round_:
                times[name].append(1000 * (now - spent[name]) / taken[name])
            spent[name], taken[name] = now, 0
            began = time.monotonic()
            while time.monotonic() - began < args.seconds:
                side.take(1)
                taken[name] += BATCH
    return times


def report(title: str, times: dict[str, list[float]]) -> None:
    print(f"{title:<32}{'ms/image':>10}{'images/s/core':>16}{'ratio':>8}")
    for name, rounds in times.items():
        ms = statistics.median(rounds)
        ratio = statistics.median(theirs / mine for theirs, mine in zip(times[YARDSTICK], rounds))
        print(f"  {name:<30}{ms:>10.2f}{1000 / ms:>16.0f}{ratio:>7.1f}x")
    print(flush=True)


def write_photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """JPEG files with a falling spectrum like that of photographs, and some grain, about as large as real ones."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height)) ** 1.6
    for number in range(count):
        planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) * amplitude) for _ in range(4)]
        light, *colours = (plane[:height] / plane.std() for plane in planes)
        pixels = np.stack([128 + 50 * light + 18 * colour for colour in colours], -1)
        pixels += rng.normal(0, 1, (height, width, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=90)
    return sorted(folder.iterdir())


def resize_photographs(found: list[Path], folder: Path, width: int, height: int, count: int) -> list[Path]:
    """JPEG files of one size from images that are at least as large."""
    for path in found:
        with Image.open(path) as image:
            if image.width < width or image.height < height:
                continue
            image.draft("RGB", (2 * width, 2 * height))
            fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
        fitted.save(folder / f"{len([*folder.iterdir()]):04}.jpg", quality=90)
        if len([*folder.iterdir()]) == count:
            break
    return sorted(folder.iterdir())


@contextmanager
def image_sets(args: argparse.Namespace) -> Iterator[dict[str, list[Path]]]:
    found = sorted(path for path in args.root.rglob("*") if path.suffix.lower() in EXTENSIONS) if args.root else []
    if args.root and not found:
        raise SystemExit(f"--root: no images in {args.root}")
    if found and not args.resize:
        yield {str(args.root): found[: args.images]}
        return
    with tempfile.TemporaryDirectory() as top:
        sets: dict[str, list[Path]] = {}
        for size in args.sizes:
            folder = Path(top, size)
            folder.mkdir()
            width, height = map(int, size.split("x"))
            make = partial(resize_photographs, found) if found else write_photographs
            sets[size] = make(folder, width, height, args.images)
            if not sets[size]:
                raise SystemExit(f"--sizes: no image in {args.root} is as large as {size}")
        yield sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="take images from this folder instead of generated ones")
    parser.add_argument("--resize", action="store_true", help="make those of the folder to --sizes")
    parser.add_argument("--sizes", nargs="+", default=["500x375", "1500x1000"], help="width x height in pixels")
    parser.add_argument("--images", type=int, default=64, help="number of files per size")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    with image_sets(args) as sets:
        for name, paths in sets.items():
            kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1000
            print(f"{name}, {len(paths)} files of {kilobytes:.0f} kB")
            for workers, title in enumerate(("one process", "one worker")):
                results.setdefault(name, {})[title] = times = measure(paths, workers, args)
                report(title, times)
    if args.json:
        versions = {"torch": torch.__version__, "pillow": PIL.__version__}
        machine = platform.processor() or platform.machine()
        record = {"date": str(date.today()), "machine": machine, **versions, "ms_per_image": results}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
