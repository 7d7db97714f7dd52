"""The map of the project, held to what the code does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dinotrain"

ALLOWED = {
    "models": {"models"},
    "optim": {"optim"},
    "data": {"data"},
    "distributed": {"distributed"},
    "cluster": {"cluster", "distributed.failure", "reporting.run_folder"},
    "reporting": {"reporting", "evaluation.bootstrap", "evaluation.outcome"},
    "preparing": {"preparing", "data"},
    "inspection": {"inspection", "data"},
    "weights": {"weights", "models", "training.manifest"},
    "classifiers": {"classifiers", "models", "weights", "evaluation.features"},
    "exporting": {"exporting", "weights", "models", "classifiers", "evaluation.features"},
    "embedding": {"embedding", "evaluation", "data", "distributed", "models"},
    "visualizing": {"visualizing", "evaluation", "data", "models", "reporting.page", "reporting.elements"},
    "finetuning": {
        *("finetuning", "classifiers", "training", "optim", "data", "distributed", "models", "evaluation", "weights"),
        "methods.outcome",
    },
    "intake": {"intake", "data"},
    "predicting": {"predicting", "classifiers", "intake", "data", "evaluation"},
    "serving": {"serving", "predicting", "intake", "classifiers", "evaluation", "models", "data.arguments"},
    "losses": {"losses", "distributed.collectives"},
    "methods": {"methods", "models", "losses", "data.batch"},
    "evaluation": {"evaluation", "models", "data", "distributed"},
    "training": {"training", "methods", "optim", "data", "distributed"},
}
"""What the files of each package may import of ours, besides the error class and what asks for extras."""

COMMANDS = (
    *("train", "evaluate", "card", "prepare", "inspect"),
    *("export", "embed", "visualize", "finetune", "predict", "serve"),
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    return {name.removeprefix("dinotrain.") for name in imports(path) if name.startswith("dinotrain.")}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_the_map_allows(package: str) -> None:
    for path in (PACKAGE / package).rglob("*.py"):
        for name in ours(path):
            allowed = any(f"{name}.".startswith(f"{prefix}.") for prefix in {"errors", "extras", *ALLOWED[package]})
            assert allowed, f"{path.relative_to(PACKAGE)} imports {name}"


def test_only_commands_use_hydra() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in modules()
        if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imports(path))
    }
    entries = {f"{command}.py" for command in COMMANDS}
    assert users <= {"commands", *entries}


def test_every_package_is_in_the_map() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {*ALLOWED, "commands"}


def test_no_file_is_a_drawer() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_files_stay_small() -> None:
    long = {str(path.relative_to(PACKAGE)): n for path in modules() if (n := path.read_text().count("\n")) > 400}
    assert not long


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = "import sys, dinotrain; print([m for m in ('torch', 'numpy', 'hydra', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    heavy = "[m for m in ('torch', 'hydra') if m in sys.modules]"
    code = f"import sys, dinotrain.{command} as c; c.main(['--help']); print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.strip().splitlines()[-1] == "[]"
