"""Looking at all machines before hours are spent on them."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dinotrain.distributed.world import World
from dinotrain.errors import FaultError

SAME = ("dinotrain", "torch", "cuda", "nccl", "xformers", "python")
"""Versions that have to be the same everywhere; that others differ is said."""
PACKAGES = ("dinotrain", "torch", "xformers", "numpy", "pillow")
CLOCK_SECONDS = 30.0
"""By how much clocks may differ: the times of files and records are compared, but not to the second."""
VISIBLE_SECONDS = 30.0
"""How long a shared file system may take until all machines see a new file."""
PRODUCT = 64


@dataclass(frozen=True)
class Facts:
    """What one process knows of the machine it runs on."""

    host: str
    clock: float
    versions: dict[str, str | None]
    device: str
    """ "cuda" or "cpu"."""
    gpu: str | None
    gpu_id: str | None
    trouble: tuple[str, ...] = ()
    """What does not work there, in words."""


def check_machines(world: World, run_dir: Path) -> list[Facts]:
    """Let every process compute, all-reduce, and see the run folder; compare clocks and versions.

    All processes together. Returns the facts of all, by rank.

    Raises:
        FaultError: with the hosts that are not like the others, and why.
    """
    # Of what is wrong with a GPU its owner tells here: in a collective on GPUs the others would wait for it.
    facts = world.gather(_facts(world))
    if not (found := problems(facts)):
        trouble = (*_all_reduce(world), *_shared_folder(world, run_dir))
        facts = [replace(fact, trouble=more) for fact, more in zip(facts, world.gather(trouble))]
        found = problems(facts)
    if found:
        raise FaultError("; ".join(found))
    return facts


def problems(facts: Sequence[Facts]) -> list[str]:
    """What is wrong with which host, one line each; the majority is right."""
    found: dict[str, list[str]] = {}
    for fact in facts:
        for text in fact.trouble:
            found.setdefault(text, []).append(fact.host)
    middle = sorted(fact.clock for fact in facts)[len(facts) // 2]
    for fact in facts:
        off = fact.clock - middle
        if abs(off) > CLOCK_SECONDS:
            found.setdefault(f"its clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}", []).append(fact.host)
    usual = _most([fact.device for fact in facts])
    for fact in facts:
        if fact.device != usual:
            found.setdefault(f"it would train on {fact.device}, the others on {usual}", []).append(fact.host)
    _add_versions(found, facts, SAME)
    shared = Counter((fact.host, fact.gpu_id) for fact in facts if fact.gpu_id)
    for (host, _), count in shared.items():
        if count > 1:
            found.setdefault(f"{count} processes are on the same GPU", []).append(host)
    return _lines(found)


def differences(facts: Sequence[Facts]) -> list[str]:
    """What is worth a word but no reason not to train: other GPUs, other versions of less important packages."""
    found: dict[str, list[str]] = {}
    _add_versions(found, facts, {name for fact in facts for name in fact.versions} - set(SAME))
    usual = _most([fact.gpu for fact in facts])
    for fact in facts:
        if fact.gpu != usual:
            found.setdefault(f"its GPU is {fact.gpu or 'none'}, elsewhere {usual or 'none'}", []).append(fact.host)
    return _lines(found)


def _add_versions(found: dict[str, list[str]], facts: Sequence[Facts], names: Collection[str]) -> None:
    for name in sorted(names):
        usual = _most([fact.versions.get(name) for fact in facts])
        for fact in facts:
            if (own := fact.versions.get(name)) != usual:
                found.setdefault(f"{name} is {own or 'missing'}, elsewhere {usual or 'missing'}", []).append(fact.host)


def _lines(found: dict[str, list[str]]) -> list[str]:
    return [f"{', '.join(dict.fromkeys(hosts))}: {text}" for text, hosts in found.items()]


def _most(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _facts(world: World) -> Facts:
    versions: dict[str, str | None] = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    versions["torch"] = str(torch.__version__)
    trouble = tuple(_compute(world.device))
    gpu = gpu_id = None
    if world.device.type == "cuda" and not trouble:
        properties = torch.cuda.get_device_properties(world.device)
        gpu, gpu_id = properties.name, str(getattr(properties, "uuid", "")) or None
        versions["cuda"] = torch.version.cuda
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # pyright: ignore
    # All look at their clocks as they leave the barrier: looking up versions may take some a while.
    world.barrier()
    return Facts(world.host, time.time(), versions, world.device.type, gpu, gpu_id, trouble)


def _compute(device: torch.device) -> list[str]:
    """A product that has to come out exactly."""
    name = "GPU" if device.type == "cuda" else "processor"
    try:
        ones = torch.ones(PRODUCT, PRODUCT, device=device)
        if (ones @ ones).eq(PRODUCT).all().item():
            return []
        return [f"its {name} computes wrong numbers"]
    except RuntimeError as error:
        return [f"its {name} does not work ({str(error).splitlines()[0]})"]


def _all_reduce(world: World) -> list[str]:
    if world.size == 1:
        return []
    total = torch.full((1,), float(world.rank), device=world.device)
    dist.all_reduce(total)
    expected = world.size * (world.size - 1) / 2
    return [] if total.item() == expected else [f"a sum over all processes gave {total.item():g}, not {expected:g}"]


def _shared_folder(world: World, run_dir: Path) -> list[str]:
    """Every process writes a file there; the first one's is seen by all."""
    token = world.gather(secrets.token_hex(8))[0]
    trouble: list[str] = []
    own = run_dir / f".check_{token}_{world.rank}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        own.write_text(token)
    except OSError as error:
        trouble = [f"can't write to the run folder {run_dir} ({error.strerror})"]
    world.barrier()
    if not trouble and not _appears(run_dir / f".check_{token}_0", token):
        trouble = [f"does not see in {run_dir} what process 0 wrote there: the run folder has to be on a shared path"]
    world.barrier()
    with contextlib.suppress(OSError):
        own.unlink()
    return trouble


def _appears(path: Path, content: str) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        # Listing the folder makes network file systems look again.
        os.listdir(path.parent)
        try:
            if path.read_text() == content:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
