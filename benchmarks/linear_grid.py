"""Time of training a grid of linear classifiers at once, against training them one by one with torch.

    python benchmarks/linear_grid.py
    python benchmarks/linear_grid.py --classes 10 --batch 256
    python benchmarks/linear_grid.py --online --images 256 --batch 64 --steps 3

The grid is that of the task `linear`: 13 learning rates, CLS of the last 1 or 4 blocks, with and without the mean patch
token. Both sides run in turn in one process on the same features, which are in memory; with --online they come from a
small network at each step, as with random views, and each classifier that is trained by itself needs them anew. Reading
and cutting images, which this would also take each time, is left out. Both end with the same weights to rounding.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation
from dinotrain.evaluation.linear.heads import Classifier, LinearHeads
from dinotrain.evaluation.linear.inputs import POOLING, linear_inputs
from dinotrain.evaluation.linear.sweep import LEARNING_RATES
from dinotrain.models.init import initialize
from dinotrain.models.vit import VisionTransformer

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Features and labels of every step, the same each time."""


def backbone(args: argparse.Namespace, device: torch.device) -> Backbone:
    heads = max(args.dim // 64, 1)
    network = VisionTransformer(image_size=96, patch_size=12, embed_dim=args.dim, depth=4, num_heads=heads)
    initialize(network, 0, network.initial)
    preparation = Preparation(size=96, crop_fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Backbone(network.to(device), preparation)


def batches(args: argparse.Namespace, frozen: Backbone, parts: tuple[str, ...]) -> Batches:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 96, 96) if args.online else (args.dim * len(parts),)
    inputs = torch.randn(args.images, *shape, generator=generator).to(frozen.device)
    labels = torch.randint(0, args.classes, (args.images,), generator=generator).to(frozen.device)

    def run() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.Generator().manual_seed(1)
        for _ in range(args.steps):
            rows = torch.randint(0, args.images, (args.batch,), generator=order).to(frozen.device)
            x = inputs[rows]
            if args.online:
                pooled = frozen.pooled(x, parts)
                x = torch.cat([pooled[part] for part in parts], dim=1)
            yield x, labels[rows]

    return run


def at_once(heads: LinearHeads, run: Batches) -> dict[int, Classifier]:
    for x, y in run():
        heads.step(x, F.one_hot(y, heads.classes).float())
    return dict(heads.classifiers())


def one_by_one(heads: LinearHeads, run: Batches) -> dict[int, Classifier]:
    """The same classifiers from the same start, each in a run of its own."""
    return {number: alone(heads, number, start, run) for number, start in heads.classifiers()}


def alone(heads: LinearHeads, number: int, start: Classifier, run: Batches) -> Classifier:
    layer = torch.nn.Linear(start.weight.shape[0], heads.classes, device=heads.device)
    with torch.no_grad():
        layer.weight.copy_(start.weight.T)
        layer.bias.copy_(start.bias)
    rate = heads.learning_rates[number % len(heads.learning_rates)]
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, heads.steps)
    for x, y in run():
        loss = F.cross_entropy(layer(x[:, start.columns]), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Classifier(start.columns, layer.weight.detach().T, layer.bias.detach())


def measure(args: argparse.Namespace) -> tuple[dict[str, list[float]], float, int]:
    """Seconds of each side in turn, the largest difference of a weight, and the number of heads."""
    frozen = backbone(args, torch.device(args.device))
    parts, inputs = linear_inputs(frozen, (1, 4), tuple(POOLING))
    run = batches(args, frozen, parts)
    rates = [rate * args.batch / 256 for rate in LEARNING_RATES]
    times: dict[str, list[float]] = {"at once": [], "one by one": []}
    worst, count = 0.0, 0
    for round_ in range(args.repeats + args.warmup):
        ends = []
        for name, side in (("at once", at_once), ("one by one", one_by_one)):
            heads = LinearHeads(inputs, rates, classes=args.classes, steps=args.steps, device=frozen.device)
            start = now(frozen.device)
            ends.append(side(heads, run))
            if round_ >= args.warmup:
                times[name].append(now(frozen.device) - start)
        ours, theirs = ends
        worst = max(worst, *(float((ours[n].weight - theirs[n].weight).abs().max()) for n in ours))
        count = len(ours)
    return times, worst, count


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384, help="of the tokens")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--online", action="store_true", help="compute the features at every step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    times, worst, count = measure(args)
    medians = {name: statistics.median(values) for name, values in times.items()}
    kind = "computed at every step" if args.online else "in memory"
    print(f"{count} heads, {args.steps} steps of {args.batch}, {args.classes} classes, {args.dim} channels, {kind}")
    print(f"{args.device}, {args.threads} threads, torch {torch.__version__}")
    for name, median in medians.items():
        print(f"{name:<12}{median:>9.2f} s  ({min(times[name]):.2f} - {max(times[name]):.2f})")
    print(f"one by one / at once: {medians['one by one'] / medians['at once']:.2f}")
    print(f"largest difference of a weight: {worst:.1e}")
    if args.json:
        machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        record = {"date": str(date.today()), "torch": torch.__version__, "machine": machine, "settings": settings}
        args.json.write_text(json.dumps(record | {"s": times, "difference": worst}, indent=1))


if __name__ == "__main__":
    main()
