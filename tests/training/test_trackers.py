"""Weights & Biases and TensorBoard beside the metrics file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinotrain.errors import UserError
from dinotrain.training.trackers import Trackers


def scalars(run_dir: Path, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_nothing_is_imported_or_written_unless_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dinotrain.training.trackers import Trackers;"
        f"trackers = Trackers(Path({str(tmp_path)!r})); trackers.log(1, {{'loss': 1.0}}); trackers.close();"
        "print([name for name in ('wandb', 'tensorboard', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_numbers_and_pictures_and_a_resume_replaces_steps(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    first = Trackers(tmp_path, tensorboard=True)
    for step in range(1, 6):
        first.log(step, {"step": step, "loss": 1.0, "loss_scale": None, "lr": float("nan"), "warning": "text"})
    first.image(5, "features", path)
    first.close()
    resumed = Trackers(tmp_path, tensorboard=True)
    for step in range(4, 8):
        resumed.log(step, {"step": step, "loss": 2.0})
    resumed.close()
    assert scalars(tmp_path, "loss") == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0}


@pytest.mark.parametrize(
    ("module", "arguments", "command"),
    [
        ("tensorboard", {"tensorboard": True}, 'pip install "dinotrain[tensorboard]"'),
        ("wandb", {"wandb": "offline"}, "pip install wandb"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command_that_helps(
    module: str, arguments: dict[str, Any], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        Trackers(tmp_path, **arguments)
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logging.wandb: got 'yes', expected"):
        Trackers(tmp_path, wandb="yes")


def test_wandb_offline_keeps_one_id_over_a_resume(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dinotrain.training.trackers import Trackers;"
        "run = Path(sys.argv[1]);"
        "trackers = Trackers(run, wandb='offline', config={'optim': {'steps': 3, 'betas': (0.9, 0.95)}});"
        "[trackers.log(step, {'step': step, 'loss': 1.0, 'loss_scale': None}) for step in (1, 2)];"
        "trackers.close()"
    )
    environment = os.environ | {"WANDB_CACHE_DIR": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path)}
    run_dir = tmp_path / "run"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(run_dir)], capture_output=True, text=True, env=environment, timeout=600
        )
        assert done.returncode == 0, done.stderr
    identity = (run_dir / "wandb_id.txt").read_text().strip()
    folders = list((run_dir / "wandb").glob("offline-run-*"))
    assert folders
    assert all(folder.name.endswith(identity) for folder in folders)
