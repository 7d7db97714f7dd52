"""Run folders to report on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIG = """\
name: small
optim:
  steps: 100
  global_batch: 8
method:
  dino_head:
    num_prototypes: 1024
runtime:
  device: auto
"""


def step_row(step: int) -> dict[str, Any]:
    keys = (
        "dino_loss",
        "ibot_loss",
        "koleo_loss",
        "lr",
        "last_layer_lr",
        "weight_decay",
        "momentum",
        "teacher_temperature",
        "grad_norm_backbone",
        "grad_norm_dino_head",
        "images_per_second",
        "data_wait",
        "memory_gb",
        "teacher_entropy",
        "student_entropy",
        "teacher_student_kl",
        "prototypes_used",
        "feature_std",
        "effective_rank",
        "nearest_distance",
    )
    row = dict.fromkeys(keys, 0.5 + 0.001 * step)
    return {"step": step, "time": 2.0 * step, "loss": 10 - 0.02 * step, **row, "loss_scale": None, "skipped_steps": 0}


def make_run(folder: Path, steps: int = 100, *, finished: bool = True, all_keys: bool = False) -> Path:
    """A folder as training leaves it after `steps` of 100; by default with the loss alone, which is drawn quickly."""
    (folder / "pictures").mkdir(parents=True)
    rows: list[dict[str, Any]] = [{"step": 0, "time": 1.0, "knn_top1_untrained": 30.25, "knn_top1_pixels": 35.5}]
    for step in range(1, steps + 1):
        rows.append(step_row(step) if all_keys else {"step": step, "time": 2.0 * step, "loss": 9.0})
        if step % 20 == 0:
            rows.append({"step": step, "time": 2.0 * step + 1, "knn_top1": 30 + 0.4 * step})
            picture = np.full((12, 24, 3), step, np.uint8)
            Image.fromarray(picture).save(folder / "pictures" / f"features_{step:08d}.png")
    if steps < 100:
        rows.append({"step": steps, "time": 2.0 * steps, "event": "interrupted"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(CONFIG)
    results = {"knn_top1": 70.0, "loss": 8.0, "steps": steps, "seconds": 2.0 * steps, "finished": finished}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "environment.json").write_text(json.dumps({"cpu": "Processor <X>", "cores": 4, "gpus": []}))
    (folder / "skipped.txt").write_text("")
    return folder
