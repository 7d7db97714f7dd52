"""Emoji on photographs with exact masks, made for a test by `benchmarks/emoji_scenes.py`, and kept outside the tree."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PACKAGES = ("lomiri-wallpapers-16.04", "ukui-wallpapers")
"""Debian's packages with the photographs, under free licences."""


def builder() -> ModuleType:
    """The program that makes such sets."""
    path = Path(__file__).parents[1] / "benchmarks" / "emoji_scenes.py"
    spec = importlib.util.spec_from_file_location("emoji_scene_builder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photographs(program: Any) -> Path | None:
    """A folder of photographs, fetched if they are not there; None where they can't be had."""
    folder = program.download_folder() / "photographs"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            try:
                _call("apt-get", "download", *PACKAGES, cwd=draft)
                for file in Path(draft).glob("*.deb"):
                    _call("dpkg-deb", "-x", file.name, "unpacked", cwd=draft)
                (Path(draft) / "unpacked").rename(folder)
            except (OSError, subprocess.SubprocessError):
                return None
    return folder


def _call(*words: str, cwd: str) -> None:
    subprocess.run(words, cwd=cwd, check=True, capture_output=True, timeout=300)


def emoji_set(root: Path, *, images: int, val: int, size: int, drawn: bool = False, one_class: bool = False) -> Path:
    """Writes a set in the layout of data=masks into the folder `root`, and returns it.

    The test that asks for it is skipped where the emoji can't be had. The grounds are photographs; without these, or if
    `drawn`, they are drawn.
    """
    program: Any = builder()
    grounds = None if drawn else photographs(program)
    try:
        program.build(root, images=images, val=val, size=size, photographs=grounds, one_class=one_class)
    except OSError as error:
        pytest.skip(f"the emoji can't be had: {error}")
    return root
