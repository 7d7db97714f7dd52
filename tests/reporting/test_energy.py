"""Energy from time and hardware."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinotrain.reporting.energy import CPU_WATTS_PER_CORE, board_watts, energy_of_run, estimate_energy
from dinotrain.reporting.run_folder import RunFolder


def test_the_published_figures_come_out_for_the_published_run() -> None:
    # DINOv2 paper: ViT-g, 22,016 hours of A100: 9.7 MWh, 3.7 t CO2 equivalent.
    energy = estimate_energy(seconds=22_016 * 3600, cores=0, gpus=["NVIDIA A100-SXM4-40GB"])
    assert energy.kwh == pytest.approx(9700, rel=0.01)
    assert energy.co2_kg == pytest.approx(3700, rel=0.01)


def test_measured_power_counts_before_assumptions() -> None:
    assumed = estimate_energy(seconds=3600, cores=8, gpus=["H200"] * 2)
    measured = estimate_energy(seconds=3600, cores=8, gpus=["H200"] * 2, gpu_watts=700.0)
    assert assumed.kwh - measured.kwh == pytest.approx(0.7 * 1.1)
    assert "measured" in measured.basis
    assert "measured" not in assumed.basis


def test_the_assumptions_are_stated() -> None:
    basis = estimate_energy(seconds=1, cores=2).basis
    for part in ("2 CPU cores", f"{CPU_WATTS_PER_CORE:g} W", "1.1", "0.385"):
        assert part in basis


def test_boards_are_known_by_name() -> None:
    assert board_watts("NVIDIA H100 PCIe") < board_watts("NVIDIA H100 80GB HBM3")
    assert board_watts("NVIDIA L40S") != board_watts("NVIDIA L4")
    assert board_watts("something new") > 0


def test_the_energy_of_a_run_counts_all_its_machines(tmp_path: Path) -> None:
    machine = {"cores": 64, "gpus": [{"name": "NVIDIA A100"}] * 8, "processes": 16}
    (tmp_path / "environment.json").write_text(json.dumps(machine))
    (tmp_path / "results.json").write_text(json.dumps({"seconds": 3600.0}))
    energy = energy_of_run(RunFolder(tmp_path))
    assert energy is not None
    assert energy.kwh == pytest.approx(estimate_energy(seconds=3600, cores=128, gpus=["A100"] * 16).kwh)
    rows = [{"step": step, "time": 10.0, "gpu_watts": 1000.0 * step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = energy_of_run(RunFolder(tmp_path))
    assert measured is not None
    assert measured.kwh == pytest.approx(estimate_energy(seconds=3600, cores=128, gpu_watts=2000.0).kwh)


def test_stated_power_and_grid_count_before_all(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"seconds": 7200.0}))
    run = RunFolder(tmp_path)
    assert energy_of_run(run) is None
    energy = energy_of_run(run, watts=1500, grid=0.05, pue=1.0)
    assert energy is not None
    assert energy.kwh == pytest.approx(3.0)
    assert energy.co2_kg == pytest.approx(0.15)
    for part in ("1,500 W", "stated", "times 1 ", "0.05 kg CO2 equivalent per kWh (stated)"):
        assert part in energy.basis


def test_nothing_is_claimed_without_a_record(tmp_path: Path) -> None:
    assert energy_of_run(RunFolder(tmp_path)) is None
