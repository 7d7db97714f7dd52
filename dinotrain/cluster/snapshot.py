"""The code as it was submitted: a copy of the package and its configurations, and what git says of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
"""The package that runs now, installed or in a source tree."""

LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def record_code(folder: Path, *, copy: bool) -> dict[str, Any]:
    """Write the code to `folder/code`, and what differs from the last commit to `folder/diff.patch`.

    Args:
        copy: whether the code is copied, or only described.

    Returns:
        snapshot: the folder to put on the path of the job, null without a copy; revision: of git, null if the code is
        not in a repository; dirty: whether files differ from it; diff: the file that says how, null for none.
    """
    snapshot = folder / "code" if copy else None
    if snapshot is not None:
        _copy(snapshot)
    revision, difference = _git_state(PACKAGE.parent)
    diff = folder / "diff.patch"
    if difference:
        diff.write_bytes(difference)
    if snapshot is not None and revision is not None:
        # The copy is in no repository; what it is a copy of belongs to the run's environment.
        (snapshot / "git.json").write_text(json.dumps({"revision": revision, "dirty": bool(difference)}))
    return {
        "snapshot": snapshot and str(snapshot),
        "revision": revision,
        "dirty": None if revision is None else bool(difference),
        "diff": str(diff) if difference else None,
    }


def _copy(target: Path) -> None:
    shutil.copytree(PACKAGE, target / PACKAGE.name, ignore=LEFT_OUT)
    beside = PACKAGE.parent / "configs"
    if not (PACKAGE / "configs").is_dir():
        shutil.copytree(beside, target / beside.name, ignore=LEFT_OUT)


def _git_state(tree: Path) -> tuple[str | None, bytes]:
    """Revision and differences of a source tree; None where it is not one of its repository's."""
    # An installed package may lie in somebody else's repository, which says nothing of it.
    if not _git(tree, "ls-files", "--", PACKAGE.name):
        return None, b""
    revision = _git(tree, "rev-parse", "HEAD").decode().strip()
    difference = _git(tree, "diff", "--binary", "HEAD")
    new = _git(tree, "ls-files", "-z", "--others", "--exclude-standard", "--", PACKAGE.name, "configs").decode()
    for name in sorted(filter(None, new.split("\0"))):
        difference += _git(tree, "diff", "--binary", "--no-index", "--", "/dev/null", name, status=1)
    return revision or None, difference


def _git(tree: Path, *words: str, status: int = 0) -> bytes:
    """What git prints; nothing if it is missing, or fails."""
    try:
        done = subprocess.run(["git", "-C", str(tree), *words], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == status else b""
