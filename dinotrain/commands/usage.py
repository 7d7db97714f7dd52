"""The text of --help; fast, since it imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import Path

KEYS = (
    ("output_dir=DIR", "where the run lives (default runs/NAME); the same command again resumes"),
    ("data=NAME data.root=PATH", "what to train on: folder, list, shards, parquet, hf, imagenet, arrays, mix ..."),
    ("augment=NAME", "dinov2, dinov2_original, dinov1, grayscale, flips, small, identity"),
    ("storage.cache=DIR", "keeps whole remote files (s3://, https:// ...) on a local disk"),
    ("runtime.workers=N", "processes that read images; python -m dinotrain.inspect recommends a number"),
    ("optim.steps=N", "optimizer updates; schedules given as shares follow"),
    ("optim.global_batch=N", "images per update, over all processes"),
    ("optim.micro_batch=N", "images per process and forward pass; smaller needs less memory"),
    ("optim.base_lr=X", "learning rate at the reference batch"),
    (
        "teacher.weights=PATH",
        "the frozen teacher of a distill experiment: a run, checkpoint, .pth, Hugging Face folder",
    ),
    ("students=[A,B]", "several students of one frozen teacher, each in a folder of output_dir"),
    ("train.start_from=PATH", "begin with these weights, of any format, instead of random ones"),
    ("seed=N", "seed of weights, order of images, crops and masks"),
    ("checkpoint.every=N", "steps between checkpoints"),
    ("log_every=N", "steps between rows of metrics.jsonl"),
    ("evaluation.every=N", "steps between evaluations"),
    ("evaluation.tasks=[knn]", "what is measured; also logistic, linear, retrieval, clusters"),
    ("resume.allow_changes=true", "go on although keys of the recipe have changed"),
    ("runtime.precision=NAME", "auto, fp16, bf16, fp32"),
    ("runtime.compile=true", "torch.compile of the blocks"),
    ("logging.wandb=online", "Weights & Biases: disabled, offline, online; logging.tensorboard=true"),
)


def help_text() -> str:
    """Usage, experiments with a line each, and the most used keys."""
    experiments = "\n".join(f"  {name:<29}{text}" for name, text in experiment_lines())
    keys = "\n".join(f"  {key:<28}{text}" for key, text in KEYS)
    return (
        "usage: python -m dinotrain.train +experiment=NAME [key=value ...]\n\n"
        "Pre-trains a vision transformer without labels, or distils a frozen one. On several GPUs:\n"
        "  torchrun --nproc-per-node=8 -m dinotrain.train +experiment=NAME ...\n\n"
        f"experiments:\n{experiments}\n\nmost used keys:\n{keys}\n\n"
        "options:\n  --config    print the whole configuration, with what was typed, and end\n"
        "  --help      this text"
    )


def experiment_lines() -> list[tuple[str, str]]:
    """Name and first comment line of every experiment, without its later clauses."""
    lines = []
    for path in sorted((config_dir() / "experiment").glob("*.yaml")):
        comments = [line[2:] for line in path.read_text().splitlines() if re.match(r"# [^@]", line)]
        lines.append((path.stem, comments[0] if comments else ""))
    return lines


def config_dir() -> Path:
    """The folder of configurations: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())
