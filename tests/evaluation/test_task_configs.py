"""The files of configs/tasks say what the classes do by themselves."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "tasks").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_task_has_the_same_defaults_typed_and_in_python(path: Path) -> None:
    words = yaml.safe_load(path.read_text())
    module, _, name = words.pop("_target_").rpartition(".")
    task = getattr(importlib.import_module(module), name)
    assert set(words) == {field.name for field in fields(task)}
    for field in fields(task):
        got, typed = getattr(task(), field.name), getattr(task(**words), field.name)
        assert _plain(got) == _plain(typed), field.name


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
