"""Time and peak memory of one training step: ours against a plain implementation of the same recipe.

    python benchmarks/step.py --model vits14 --batch 2
    python benchmarks/step.py --model small --batch 8 --precision bf16 --json out.json
    python benchmarks/step.py --teacher vitl14 --precision bf16   # only the memory that a frozen teacher costs

All variants run in turn in one process, on the same random images; memory is measured in a process of its own each on
a CPU. The plain variant loops over crops and over pairs of views, as a textbook would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from frozen_teacher import frozen_teacher_memory, words
from torch import nn

from dinotrain.data.batch import Batch
from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.distributed.world import join_world
from dinotrain.losses.koleo import koleo_loss
from dinotrain.methods.self_distillation import SelfDistillation
from dinotrain.models.attention import select_attention
from dinotrain.models.head import Head
from dinotrain.models.networks import Networks
from dinotrain.models.vit import Tokens, VisionTransformer
from dinotrain.optim.ema import MovingAverage
from dinotrain.optim.recipe import OptimizationRecipe, StepValues
from dinotrain.training.state import TrainState
from dinotrain.training.step import train_step

MODELS = {
    "small": {"image_size": 96, "patch_size": 12, "embed_dim": 192, "depth": 6, "num_heads": 3},
    "vits14": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vitb14": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vitl14": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "ffn": "swiglu"},
    "vitg14": {"embed_dim": 1536, "depth": 40, "num_heads": 24, "ffn": "swiglu"},
}
CROPS = {"small": (96, 48, 4)}
VALUES = StepValues(lr=1e-4, weight_decay=0.04, momentum=0.99, teacher_temperature=0.07, last_layer_lr=1e-4)
TEMPERATURE = 0.1


class SeparateBackbone(VisionTransformer):
    """The same backbone with one pass per crop size: what packing is measured against."""

    def forward(self, images, masks=None) -> list[Tokens]:
        masks = masks or [None] * len(images)
        return [super(SeparateBackbone, self).forward([x], [mask])[0] for x, mask in zip(images, masks)]


def networks(args: argparse.Namespace, backbone: type[VisionTransformer]) -> Networks:
    vit = backbone(**MODELS[args.model], drop_path=args.drop_path)
    head = Head(in_dim=vit.embed_dim, hidden_dim=2048, bottleneck_dim=256, num_prototypes=args.prototypes)
    return Networks(backbone=vit, dino_head=head)


def random_batch(args: argparse.Namespace, device: torch.device, patch: int) -> Batch:
    size, local, count = CROPS.get(args.model, (224, 98, 8))
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, args.batch, (size // patch) ** 2, dtype=torch.bool)
    for view, image in [(i % 2, i // 2) for i in range(0, 2 * args.batch, 2)]:
        masks[view, image] = torch.rand(masks.shape[-1], generator=generator) < 0.3
    counts = masks.sum(-1, keepdim=True).clamp(min=1).expand_as(masks)
    return Batch(
        global_crops=torch.randn(2, args.batch, 3, size, size, generator=generator).to(device),
        local_crops=torch.randn(count, args.batch, 3, local, local, generator=generator).to(device),
        masks=masks.to(device),
        mask_indices=masks.flatten().nonzero().flatten().to(device),
        mask_weights=(1 / counts[masks]).to(device),
        names=("",) * args.batch,
    )


def our_step(args: argparse.Namespace, device: torch.device, packed: bool) -> Callable[[], object]:
    backbone = VisionTransformer if packed else SeparateBackbone
    with torch.device("meta"):
        student, teacher = networks(args, backbone), networks(args, backbone)
    mesh = device_mesh(device.type, 1, None)
    for each in (student, teacher):
        select_attention(each, args.attention)
        parallelize(each, mesh=mesh, precision=args.precision, reshard_after_forward=True, compile_blocks=args.compile)
        materialize(each, device)
        each.initialize(0)
    teacher.requires_grad_(False).eval()
    recipe = OptimizationRecipe(steps=1000, global_batch=args.batch)
    state = TrainState(
        student=student,
        ema=teacher,
        method=SelfDistillation(num_prototypes=(args.prototypes, args.prototypes)).to(device),
        optimizer=recipe.optimizer(student, student.backbone.depth),
        scaler=torch.amp.GradScaler(device.type, enabled=args.precision == "fp16"),  # pyright: ignore
        average=MovingAverage(teacher, student),
        seed=0,
    )
    batch = random_batch(args, device, MODELS[args.model].get("patch_size", 14))
    return lambda: train_step([state], [batch], VALUES, count=1, clip_grad=3.0, rank=0)


def plain_step(args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """The recipe as one would first write it: every crop on its own, every pair on its own, autocast."""
    student, teacher = networks(args, VisionTransformer).to(device), networks(args, VisionTransformer).to(device)
    student.initialize(0)
    teacher.initialize(0)
    teacher.requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=VALUES.lr, weight_decay=VALUES.weight_decay)
    batch = random_batch(args, device, student.backbone.patch_size)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[args.precision]
    scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "fp16")  # pyright: ignore

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext():
            loss = plain_loss(student, teacher, batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        for child in student.children():
            nn.utils.clip_grad_norm_(child.parameters(), 3.0)
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters()):
                old.mul_(VALUES.momentum).add_(new, alpha=1 - VALUES.momentum)

    return step


def plain_loss(student: Networks, teacher: Networks, batch: Batch) -> torch.Tensor:
    views = list(batch.global_crops)
    with torch.no_grad():
        seen = [teacher.backbone([view])[0] for view in views]
        scores = torch.cat([teacher.dino_head(tokens.cls) for tokens in seen])
        targets = plain_sinkhorn(scores).chunk(len(views))
        hidden = torch.cat([tokens.patches[mask] for tokens, mask in zip(seen, batch.masks)])
        patch_targets = plain_sinkhorn(teacher.dino_head(hidden))
    tokens = [student.backbone([view], [mask])[0] for view, mask in zip(views, batch.masks)]
    cls = [each.cls for each in tokens] + [student.backbone([view])[0].cls for view in batch.local_crops]
    logits = [student.dino_head(each) for each in cls]
    pairs = [(s, t) for s in range(len(logits)) for t in range(len(targets)) if s != t]
    terms = [(-targets[t] * F.log_softmax(logits[s].float() / TEMPERATURE, -1)).sum(-1).mean() for s, t in pairs]
    dino = torch.stack(terms).mean()
    patches = torch.cat([each.patches[mask] for each, mask in zip(tokens, batch.masks)])
    log_probabilities = F.log_softmax(student.dino_head(patches).float() / TEMPERATURE, -1)
    ibot = ((-patch_targets * log_probabilities).sum(-1) * batch.mask_weights).sum() / batch.masks.flatten(0, 1).shape[
        0
    ]
    return dino + ibot + 0.1 * torch.stack([koleo_loss(each) for each in cls[: len(views)]]).sum()


def plain_sinkhorn(scores: torch.Tensor) -> torch.Tensor:
    q = (scores.float() / VALUES.teacher_temperature).exp()
    for _ in range(3):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


def variants(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Callable[[], object]]]:
    return {
        "packed": lambda: our_step(args, device, packed=True),
        "separate": lambda: our_step(args, device, packed=False),
        "plain": lambda: plain_step(args, device),
    }


def peak_memory_mb(args: argparse.Namespace, name: str) -> float:
    """Peak memory of two steps of a variant: of the GPU, or of a fresh process less what it needs to start."""
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = variants(args, torch.device("cuda"))[name]()
        for _ in range(2):
            step()
        return torch.cuda.max_memory_allocated() / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_in_process, (args, name))


def _peak_in_process(args: argparse.Namespace, name: str) -> float:
    torch.set_num_threads(args.threads)
    with join_world("cpu", 5) as world:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step = variants(args, world.device)[name]()
        for _ in range(2):
            step()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    steps = {name: make() for name, make in variants(args, device).items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(args.repeats + args.warmup):
        for name, step in steps.items():
            _synchronize(device)
            start = time.perf_counter()
            step()
            _synchronize(device)
            if round_ >= args.warmup:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--attention", choices=("sdpa", "xformers"), default="sdpa")
    parser.add_argument("--prototypes", type=int, default=8192)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--compile", action="store_true", help="compile the blocks of ours")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--teacher", choices=MODELS, help="measure this frozen teacher's memory, and nothing else")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.teacher:
        found = frozen_teacher_memory(args, MODELS[args.teacher])
        print(words(args.teacher, args.precision, found))
        if args.json:
            args.json.write_text(json.dumps({"torch": torch.__version__, "teacher": args.teacher, **found}, indent=1))
        return
    memory = (
        {name: peak_memory_mb(args, name) for name in ("packed", "separate", "plain")} if args.device == "cpu" else {}
    )
    with join_world(args.device, 5) as world:
        if args.device == "cuda":
            memory = {name: peak_memory_mb(args, name) for name in ("packed", "separate", "plain")}
        times = measure(args, world.device)
    report(args, times, memory)


def report(args: argparse.Namespace, times: dict[str, list[float]], memory: dict[str, float]) -> None:
    plain = statistics.median(times["plain"])
    print(
        f"{args.model}, batch {args.batch}, {args.precision}, {args.attention}, {args.device}, "
        f"{args.threads} threads, torch {torch.__version__}"
    )
    print(f"{'variant':<10}{'ms/step':>10}{'spread':>16}{'x plain':>9}{'peak MB':>10}{'x plain':>9}")
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"{min(values):.0f} - {max(values):.0f}"
        share = memory[name] / memory["plain"]
        print(f"{name:<10}{median:>10.1f}{spread:>16}{median / plain:>9.2f}{memory[name]:>10.0f}{share:>9.2f}")
    if args.json:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
        record = {"date": str(date.today()), "torch": torch.__version__, "machine": machine, "settings": settings}
        args.json.write_text(json.dumps(record | {"ms": times, "peak_mb": memory}, indent=1))


if __name__ == "__main__":
    main()
