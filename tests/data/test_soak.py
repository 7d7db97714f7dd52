"""A short time of loading while workers are killed; `benchmarks/soak.py` does it for as long as one likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_is_left_behind() -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "soak.py"
    command = [sys.executable, str(program), "--minutes", "0.3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing left behind" in result.stdout
    assert "processes killed with their workers" in result.stdout
