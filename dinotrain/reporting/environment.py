"""What a run was carried out with: the content of `environment.json`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "dinotrain",
    "torch",
    "xformers",
    "omegaconf",
    "hydra-core",
    "submitit",
    "fvcore",
    "wandb",
    "rich",
    "safetensors",
    "numpy",
    "pillow",
    "matplotlib",
    "jaxtyping",
)
COMMAND = "DINOTRAIN_COMMAND"
"""Variable with what was typed to submit this job; what runs in it is submitit's."""
SOURCE_TREE = Path(__file__).parents[2]


def environment(processes: int = 1) -> dict[str, Any]:
    """Machine, packages, source revision and command of this process; null where something can't be found out.

    Args:
        processes: of the run.
    """
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": os.environ.get(COMMAND) or shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gb": memory_gb(),
        **gpus(),
        "processes": processes,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "git": git_state(SOURCE_TREE),
    }


def cpu_model() -> str | None:
    """The processor's name."""
    described = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return described.group(1).strip() if described else platform.processor() or None


def usable_cores() -> int:
    """Cores that this process may use, which on a shared machine are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gb() -> float | None:
    """Memory of the machine, in GiB."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def gpus() -> dict[str, Any]:
    """Name and memory in GiB of every visible GPU; versions of driver and CUDA."""
    import torch

    found = []
    if torch.cuda.is_available():
        all_properties = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
        found = [{"name": each.name, "memory_gb": round(each.total_memory / 2**30, 1)} for each in all_properties]
    driver = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", _text(Path("/proc/driver/nvidia/version")))
    return {"gpus": found, "gpu_driver": driver.group(1) if driver and found else None, "cuda": torch.version.cuda}


def package_version(name: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(tree: Path) -> dict[str, Any] | None:
    """Revision of a source tree, and whether files differ from it; None for an installed package without one.

    A copy that was made for a job says so in `git.json`.
    """
    if not (tree / ".git").exists():
        return json.loads(_text(tree / "git.json") or "null")
    revision = _git(tree, "rev-parse", "HEAD")
    return {"revision": revision, "dirty": bool(_git(tree, "status", "--porcelain"))} if revision else None


def _git(tree: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
