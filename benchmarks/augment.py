"""Photometric augmentation: picking the rows, the same in whole levels as data workers do it, and compiled, in turn.

    python benchmarks/augment.py [--threads 2] [--compile]
    python benchmarks/augment.py --device cuda --images 64

Times are the shortest in ms per image; with one thread on a CPU they are the processor's, so that other jobs count
less. "picked" is `photometric.augment`; "levels" and "normalize" are its two halves, of which the workers do the first;
"compiled" is `photometric_dense`, always measured on a GPU, on a CPU if asked for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dinotrain.data import photometric
from dinotrain.data.augment import Augment
from dinotrain.data.order import sample_rng
from dinotrain.data.photometric_dense import compiled_augment

STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
NO_BLUR: dict[str, Any] = {"blur_global1": 0, "blur_global2": 0, "blur_local": 0, "solarize_global2": 0}
RECIPES = {
    "2x224 + 8x98, dinov2": (224, 98, 8, Augment()),
    "2x224 + 8x98, identity": (224, 98, 8, Augment(flip=0, jitter_probability=0, grayscale=0, **NO_BLUR)),
    "2x48 + 4x24, small": (48, 24, 4, Augment(saturation=0.4, **NO_BLUR)),
}

Parts = list[tuple[Tensor, Tensor]]
"""Crops with their tables: global, local."""


def drawn(global_size: int, local_size: int, num_local: int, colours: Augment, images: int, device: str) -> Parts:
    tables = [torch.from_numpy(colours.parameters(sample_rng(0, i), num_local)) for i in range(images)]
    params = torch.stack(tables, 1)
    shapes = (2 * images, global_size, global_size, 3), (num_local * images, local_size, local_size, 3)
    generator = torch.Generator().manual_seed(0)
    crops = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device) for shape in shapes]
    return [(crops[0], params[:2].flatten(0, 1)), (crops[1], params[2:].flatten(0, 1))]


def milliseconds(function: Callable[[Tensor, Tensor], object], parts: Parts, images: int) -> float:
    """On copies, which the function may change."""
    copies = [(crops.clone(), params) for crops, params in parts]
    device = copies[0][0].device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for crops, params in copies:
        function(crops, params)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - start) / images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=32, help="per batch")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile on a CPU too, which takes minutes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    functions: dict[str, Callable[[Tensor, Tensor], object]] = {
        "picked": lambda crops, params: photometric.augment(crops, params, **STATISTICS),
        "levels": photometric.levels_into,
        "normalize": lambda crops, _: photometric.normalize(crops, **STATISTICS),
    }
    if args.compile or args.device != "cpu":
        functions["compiled"] = compiled_augment(**STATISTICS)
    where = torch.cuda.get_device_name() if args.device != "cpu" else f"{args.threads} CPU threads"
    print(f"ms per image, batches of {args.images}, {where}, torch {torch.__version__}")
    print(f"{'':<26}" + "".join(f"{name:>11}" for name in functions) + f"{'picked / compiled':>20}")
    for name, recipe in RECIPES.items():
        parts = drawn(*recipe, args.images, args.device)
        rounds = [
            {key: milliseconds(function, parts, args.images) for key, function in functions.items()}
            for _ in range(args.repeats + 2)
        ][2:]
        times = {key: min(one[key] for one in rounds) for key in functions}
        ratio = f"{times['picked'] / times['compiled']:>20.2f}" if "compiled" in times else f"{'-':>20}"
        print(f"{name:<26}" + "".join(f"{value:>11.3f}" for value in times.values()) + ratio)


if __name__ == "__main__":
    main()
