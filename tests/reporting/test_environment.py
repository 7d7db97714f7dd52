"""What is written down of machine and software."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from dinotrain.reporting.environment import PACKAGES, environment, git_state, package_version


def test_it_is_complete_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    facts = json.loads(json.dumps(environment()))
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["packages"].keys() == set(PACKAGES)
    assert facts["cores"] >= 1
    assert facts["memory_gb"] > 0
    assert len(facts["gpus"]) == torch.cuda.device_count()
    assert facts["slurm_job"] == "4711"
    for key in ("time", "command", "platform", "python", "git"):
        assert key in facts


def test_a_missing_package_has_no_version() -> None:
    assert package_version("no-such-package-at-all") is None


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_revision_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["revision"]) == 40
    assert state["dirty"] is False
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == state | {"dirty": True}
