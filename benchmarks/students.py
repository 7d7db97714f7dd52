"""Time of one distillation step: several students of one teacher together, against one run after another.

    python benchmarks/students.py --teacher small --students tiny,narrow,small
    python benchmarks/students.py --teacher vitg14 --students vits14,vitb14,vitl14 --batch 16 --precision fp16

Both sides run in turn in one process, on the same random images and with the losses of `distill_vits14`, or with
--features those of `distill_features_vits14`. Reading images, which separate runs do once each, is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from step import MODELS, VALUES, random_batch

from dinotrain.distributed.parallelize import device_mesh, materialize, parallelize
from dinotrain.distributed.world import join_world
from dinotrain.methods.distillation import Distillation
from dinotrain.methods.feature_distillation import FeatureDistillation
from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.models.attention import select_attention
from dinotrain.models.head import Head
from dinotrain.models.networks import BackboneNetworks, FeatureNetworks, Networks
from dinotrain.models.projection import Projection
from dinotrain.models.vit import VisionTransformer
from dinotrain.optim.ema import MovingAverage
from dinotrain.optim.recipe import OptimizationRecipe
from dinotrain.training.state import TrainState
from dinotrain.training.step import train_step

OWN = {
    "tiny": {"image_size": 96, "patch_size": 12, "embed_dim": 64, "depth": 4, "num_heads": 1},
    "narrow": {"image_size": 96, "patch_size": 12, "embed_dim": 128, "depth": 6, "num_heads": 2},
    "wide": {"image_size": 96, "patch_size": 12, "embed_dim": 384, "depth": 12, "num_heads": 6},
}
KNOWN = {**MODELS, **OWN}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Step = Callable[[], object]


def backbone(name: str) -> VisionTransformer:
    return VisionTransformer(**KNOWN[name])


def head(vit: VisionTransformer, args: argparse.Namespace) -> Head:
    return Head(in_dim=vit.embed_dim, hidden_dim=2048, bottleneck_dim=256, num_prototypes=args.prototypes)


def networks(name: str, width: int, args: argparse.Namespace) -> BackboneNetworks:
    """Of a student; with projections to the teacher's `width` where features are matched."""
    vit = backbone(name)
    if not args.features:
        return Networks(backbone=vit, dino_head=head(vit, args), ibot_head=head(vit, args))
    to_teacher = (Projection(in_dim=vit.embed_dim, out_dim=width) for _ in range(2))
    return FeatureNetworks(backbone=vit, cls_projection=next(to_teacher), patch_projection=next(to_teacher))


def ready(made: BackboneNetworks, args: argparse.Namespace, device: torch.device, *, frozen: bool) -> None:
    select_attention(made, args.attention)
    mesh = device_mesh(device.type, 1, None)
    parallelize(made, mesh=mesh, precision=args.precision, reshard_after_forward=True, frozen=frozen)
    materialize(made, device)
    made.initialize(0)


def frozen_teacher(args: argparse.Namespace, device: torch.device) -> FrozenTeacher:
    with torch.device("meta"):
        vit = backbone(args.teacher)
        heads = {} if args.features else {"dino_head": head(vit, args), "ibot_head": head(vit, args)}
        made = BackboneNetworks(backbone=vit) if args.features else Networks(backbone=vit, **heads)
    made.requires_grad_(False).eval()
    ready(made, args, device, frozen=True)
    return FrozenTeacher(made, size=None, seen=IMAGENET)


def student(name: str, method: torch.nn.Module, args: argparse.Namespace, device: torch.device) -> TrainState:
    width = KNOWN[args.teacher]["embed_dim"]
    with torch.device("meta"):
        made, average = (networks(name, width, args) for _ in range(2))
    for each in (made, average):
        ready(each, args, device, frozen=False)
    recipe = OptimizationRecipe(steps=1000, global_batch=args.batch)
    return TrainState(
        student=made,
        ema=average.requires_grad_(False).eval(),
        method=method,
        optimizer=recipe.optimizer(made, made.backbone.depth),
        scaler=torch.amp.GradScaler(device.type, enabled=args.precision == "fp16"),  # pyright: ignore
        average=MovingAverage(average, made),
        seed=0,
    )


def sides(args: argparse.Namespace, device: torch.device) -> dict[str, list[Step]]:
    """The steps of which each side consists."""
    dim, many = KNOWN[args.teacher]["embed_dim"], args.prototypes
    method = FeatureDistillation(dim=dim) if args.features else Distillation(num_prototypes=(many, many))
    method = method.to(device)
    teacher = frozen_teacher(args, device)
    states = [student(name, method, args, device) for name in args.students]
    sizes = argparse.Namespace(model=args.teacher if args.teacher in MODELS else "small", batch=args.batch)
    batch = random_batch(sizes, device, KNOWN[args.teacher].get("patch_size", 14))

    def step(group: list[TrainState]) -> Step:
        return lambda: train_step([*group], [batch], VALUES, count=1, clip_grad=3.0, rank=0, teacher=teacher)

    def look() -> object:
        return method.targets(teacher, batch, VALUES.teacher_temperature)

    return {"together": [step(states)], "one by one": [step([state]) for state in states], "teacher alone": [look]}


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    """ms per round of each side, in turn."""
    steps = sides(args, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(args.repeats + args.warmup):
        for name, parts in steps.items():
            start = _now(device)
            for part in parts:
                part()
            if round_ >= args.warmup:
                times[name].append(1000 * (_now(device) - start))
    return times


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", choices=KNOWN, default="wide")
    parser.add_argument("--students", type=lambda text: text.split(","), default=["tiny", "narrow", "small"])
    parser.add_argument("--features", action="store_true", help="match features instead of prototypes")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--attention", choices=("sdpa", "xformers"), default="sdpa")
    parser.add_argument("--prototypes", type=int, default=4096)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    unknown = [name for name in args.students if name not in KNOWN]
    if unknown:
        parser.error(f"--students: {unknown[0]}; expected some of {', '.join(KNOWN)}")
    with join_world(args.device, 5) as world:
        times = measure(args, world.device)
    medians = {name: statistics.median(values) for name, values in times.items()}
    kind = "features" if args.features else "prototypes"
    print(
        f"{args.teacher} -> {', '.join(args.students)} by {kind}, batch {args.batch}, {args.precision}, {args.device}"
    )
    for name, median in medians.items():
        print(f"{name:<15}{median:>10.1f} ms  ({min(times[name]):.0f} - {max(times[name]):.0f})")
    print(f"together / one by one: {medians['together'] / medians['one by one']:.2f}")
    if args.json:
        machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        record = {"date": str(date.today()), "torch": torch.__version__, "machine": machine, "settings": settings}
        args.json.write_text(json.dumps(record | {"ms": times}, indent=1))


if __name__ == "__main__":
    main()
