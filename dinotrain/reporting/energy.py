"""How much energy a run took, measured on the GPUs where that is possible, else by stated assumptions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from dinotrain.reporting.run_folder import RunFolder

CPU_WATTS_PER_CORE = 6.0
"""A busy core of a server with its share of memory and board: 64 cores at about 280 W of processor and 100 W around."""

BOARD_WATTS = {
    "H200": 700.0,
    "H100 PCIe": 350.0,
    "H100": 700.0,
    "A100": 400.0,
    "V100": 300.0,
    "L40": 300.0,
    "L4": 72.0,
    "A10": 150.0,
    "T4": 70.0,
    "RTX 5090": 575.0,
    "RTX 4090": 450.0,
    "RTX 3090": 350.0,
}
"""Power limits by the vendor's data sheets; the first name contained in the GPU's name counts."""

OTHER_GPU_WATTS = 300.0
"""For a GPU that is not in the list."""

POWER_USAGE_EFFECTIVENESS = 1.1
"""What a data centre draws per watt of its computers (DINOv2 paper, section 9)."""

GRID_KG_PER_KWH = 0.385
"""CO2 equivalent of the average kWh in the USA (DINOv2 paper, section 9); look up the figure of your own grid."""


class Energy(NamedTuple):
    """Energy of a run."""

    kwh: float
    co2_kg: float
    basis: str
    """What the numbers rest on, for a reader."""


def energy_of_run(
    run: RunFolder,
    *,
    watts: float | None = None,
    pue: float = POWER_USAGE_EFFECTIVENESS,
    grid: float = GRID_KG_PER_KWH,
) -> Energy | None:
    """Energy of what is on record of a run; None where its duration or its machine is not.

    Power of the GPUs is the mean of the rows' `gpu_watts` (all GPUs together), if there are any.

    Args:
        watts: stated mean power of all machines together, in place of measured and assumed ones.
        pue: what a data centre draws per watt of its computers.
        grid: kg of CO2 equivalent per kWh.
    """
    seconds, cores = run.seconds, run.environment.get("cores")
    if seconds and watts is not None:
        return _energy(f"{watts:,.0f} W for all machines together (stated)", watts, seconds, pue=pue, grid=grid)
    if not seconds or not cores:
        return None
    processes = int(run.environment.get("processes") or 1)
    boards = [gpu["name"] for gpu in run.environment.get("gpus") or []]
    if run.setting("runtime", "device") == "cpu":
        boards = []
    # Each process has one GPU; the environment describes the main process's machine.
    machines = -(-processes // len(boards)) if boards else 1
    measured = run.values("gpu_watts")
    return estimate_energy(
        seconds=seconds,
        cores=cores * machines,
        gpus=boards[:1] * processes,
        gpu_watts=fmean(measured) if measured and boards else None,
        pue=pue,
        grid=grid,
    )


def estimate_energy(
    *,
    seconds: float,
    cores: int,
    gpus: Sequence[str] = (),
    gpu_watts: float | None = None,
    pue: float = POWER_USAGE_EFFECTIVENESS,
    grid: float = GRID_KG_PER_KWH,
) -> Energy:
    """Energy of a run from its duration and its hardware.

    Args:
        seconds: wall time.
        cores: CPU cores in use, over all machines.
        gpus: names of all GPUs in use.
        gpu_watts: measured mean power of all GPUs together; None to assume that each draws its power limit.
        pue: what a data centre draws per watt of its computers.
        grid: kg of CO2 equivalent per kWh.
    """
    assumed = [board_watts(name) for name in gpus]
    gpu = sum(assumed) if gpu_watts is None else gpu_watts
    parts = [f"{cores} CPU core{'s' * (cores != 1)} at {CPU_WATTS_PER_CORE:g} W each (assumed)"]
    if gpu_watts is not None:
        parts.append(f"GPUs at {gpu_watts:,.0f} W together (measured)")
    elif gpus:
        parts.append(f"{len(gpus)} x {gpus[0]} at {assumed[0]:g} W each (their power limit)")
    return _energy(", ".join(parts), CPU_WATTS_PER_CORE * cores + gpu, seconds, pue=pue, grid=grid)


def _energy(power: str, watts: float, seconds: float, *, pue: float, grid: float) -> Energy:
    """Of a mean power, with how that is known in words."""
    kwh = watts * pue * seconds / 3.6e6
    source = "average of the USA" if grid == GRID_KG_PER_KWH else "stated"
    basis = (
        f"{power}; times {pue:g} for what a data centre draws besides; {grid:g} kg CO2 equivalent per kWh ({source})"
    )
    return Energy(kwh, kwh * grid, basis)


def board_watts(name: str) -> float:
    """The power limit of a GPU by its name."""
    return next((watts for part, watts in BOARD_WATTS.items() if part.lower() in name.lower()), OTHER_GPU_WATTS)


def gpu_power() -> float | None:
    """Watts that this process's GPU draws now; None without a GPU, or without NVML (package nvidia-ml-py)."""
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.power_draw() / 1000
    except (RuntimeError, ImportError):
        return None
