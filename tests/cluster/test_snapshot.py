"""The copy of the code, and what git says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinotrain.cluster import snapshot
from dinotrain.cluster.snapshot import record_code
from dinotrain.reporting.environment import git_state


def git(tree: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *identity, *words], cwd=tree, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with one commit."""
    tree = tmp_path / "tree"
    for name, text in (("dinotrain/__init__.py", "a = 1\n"), ("configs/train.yaml", "seed: 0\n"), ("notes.md", "-\n")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    git(tree, "init")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "first")
    monkeypatch.setattr(snapshot, "PACKAGE", tree / "dinotrain")
    return tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_package_and_configurations_are_copied_and_nothing_else(tree: Path, folder: Path) -> None:
    (tree / "dinotrain" / "__pycache__").mkdir()
    (tree / "dinotrain" / "__pycache__" / "x.pyc").touch()
    code = record_code(folder, copy=True)
    assert code["snapshot"] == str(folder / "code")
    assert files(folder / "code") == {"dinotrain/__init__.py", "configs/train.yaml", "git.json"}
    assert git_state(folder / "code") == {"revision": code["revision"], "dirty": code["dirty"]}


def test_a_clean_tree_has_a_revision_and_no_differences(tree: Path, folder: Path) -> None:
    code = record_code(folder, copy=False)
    expected = {"snapshot": None, "revision": git(tree, "rev-parse", "HEAD").strip(), "dirty": False, "diff": None}
    assert code == expected
    assert not files(folder)


def test_revision_and_differences_give_the_tree_back(tree: Path, folder: Path, tmp_path: Path) -> None:
    (tree / "dinotrain" / "__init__.py").write_text("a = 2\n")
    (tree / "dinotrain" / "new file.py").write_text("b = 3\n")
    (tree / "notes.md").write_text("changed\n")
    code = record_code(folder, copy=True)
    assert code["dirty"] is True
    git(tmp_path, "clone", "tree", "again")
    git(tmp_path / "again", "checkout", code["revision"])
    git(tmp_path / "again", "apply", code["diff"])
    for name in ("dinotrain/__init__.py", "dinotrain/new file.py", "notes.md"):
        assert (tmp_path / "again" / name).read_text() == (tree / name).read_text()


def test_somebody_elses_repository_says_nothing_of_an_installed_package(tree: Path, folder: Path) -> None:
    installed = tree / ".venv" / "site-packages"
    (installed / "dinotrain" / "configs").mkdir(parents=True)
    (installed / "dinotrain" / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "PACKAGE", installed / "dinotrain")
        code = record_code(folder, copy=True)
    assert code["revision"] is code["dirty"] is code["diff"] is None
    assert files(folder / "code") == {"dinotrain/__init__.py"}


def test_the_copy_of_the_real_package_runs_from_anywhere(folder: Path) -> None:
    code = record_code(folder, copy=True)
    line = "import dinotrain.commands.usage as u; print(u.__file__, u.config_dir())"
    done = subprocess.run(
        [sys.executable, "-c", line],
        env={"PYTHONSAFEPATH": "1", "PYTHONPATH": code["snapshot"], "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(path.startswith(str(folder)) for path in done.stdout.split())
