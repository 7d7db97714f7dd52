"""A SLURM cluster for the tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import one_machine
import pytest


@pytest.fixture(scope="session")
def started_cluster() -> Iterator[one_machine.Cluster]:
    """A cluster of three nodes, for all tests of this process."""
    reason = one_machine.reason_to_skip()
    if reason:
        pytest.skip(f"no SLURM here: {reason}")
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = one_machine.start(root)
    try:
        yield cluster
    finally:
        cluster.script("stop")
        shutil.rmtree(root)


@pytest.fixture
def cluster(started_cluster: one_machine.Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[one_machine.Cluster]:
    """The cluster with all nodes and no job; after the test, no process of a job may be left."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, started_cluster.environment[name])
    yield started_cluster
    started_cluster.restore()
