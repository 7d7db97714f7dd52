"""Runs that several modules of tests look at; nobody changes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_runs import DISTILLED, FEATURES, TEACHER, run_here


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained run."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run_here(*TEACHER, f"output_dir={folder}")
    return folder


@pytest.fixture(scope="session")
def distilled(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that was distilled from it, without anything said of it but where it is."""
    folder = tmp_path_factory.mktemp("distilled") / "run"
    run_here(*DISTILLED, f"teacher.weights={teacher}", f"output_dir={folder}")
    return folder


@pytest.fixture(scope="session")
def featured(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that was distilled from its features."""
    folder = tmp_path_factory.mktemp("featured") / "run"
    run_here(*FEATURES, f"teacher.weights={teacher}", f"output_dir={folder}")
    return folder
