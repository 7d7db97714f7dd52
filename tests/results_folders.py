"""Results folders to report on and to compare, as an evaluation leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RATES = [f"{rate:g}" for rate in (1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)]


def knn(images: int = 1000, correct: float = 0.8, seed: int = 0) -> dict[str, Any]:
    """The record of a k-NN evaluation, with its arrays under `arrays`."""
    random = np.random.default_rng(seed)
    value = random.random(images) < correct
    top1 = 100 * float(value.mean())
    confusion = random.dirichlet(np.full(10, 0.4), 10) * 30 + 70 * np.eye(10)
    return {
        "numbers": {"top1": top1, "top5": min(top1 + 15, 100.0), "top1_k10": top1, "top1_k200": top1 - 1.5},
        "protocol": {"k": [10, 20, 100, 200], "temperature": 0.07, "subsets": {"per_class": [1, 5]}, "seeds": [0, 1]},
        "notes": ["k reduced from 200 to 150: the training set has 150 images"],
        "seconds": 12.3,
        "kind": "mean",
        "arrays": {"value": value, "rows": np.arange(images)},
        "charts": [
            {
                "title": "Accuracy over k",
                "note": "Top-1, in percent",
                "x_label": "k",
                "y_label": "top-1 (%)",
                "log_x": True,
                "series": [
                    {"label": "top-1", "points": [[k, top1 - 0.01 * k] for k in (10, 20, 100, 200)], "dashed": False},
                    {"label": "chance", "points": [[10, 10.0], [200, 10.0]], "dashed": True},
                ],
            }
        ],
        "matrices": [
            {
                "title": "Confusion",
                "note": "Rows: true class",
                "rows": CLASSES,
                "columns": CLASSES,
                "values": confusion.tolist(),
                "unit": "%",
            }
        ],
        "tables": [
            {
                "title": "Per class",
                "note": "",
                "columns": ["class", "top-1"],
                "rows": [[c, "81.2"] for c in CLASSES * 2],
            }
        ],
        "pictures": [
            {"file": "pictures/knn_neighbours.png", "title": "Nearest neighbours", "note": "Query at the left"}
        ],
    }


def linear(images: int = 1000) -> dict[str, Any]:
    random = np.random.default_rng(1)
    value = random.random(images) < 0.84
    features = ["last 1, CLS", "last 1, CLS + patches", "last 4, CLS", "last 4, CLS + patches"]
    grid = 84 - 4 * np.square(np.arange(9) - 5)[None] / 4 + np.arange(4)[:, None]
    return {
        "numbers": {"top1": 100 * float(value.mean()), "top5": 98.1, "imagenet_v2_top1": 71.0},
        "protocol": {"steps": 12500, "batch": 1024, "momentum": 0.9},
        "notes": [],
        "seconds": 340.0,
        "kind": "mean",
        "arrays": {"value": value, "rows": np.arange(images)},
        "charts": [],
        "matrices": [
            {
                "title": "Grid of the sweep",
                "note": "Top-1 on validation by learning rate",
                "rows": features,
                "columns": RATES,
                "values": grid.tolist(),
                "unit": "%",
            }
        ],
        "tables": [],
        "pictures": [],
    }


def segmentation(images: int = 60, classes: int = 5) -> dict[str, Any]:
    random = np.random.default_rng(2)
    union = random.integers(50, 90, (images, classes))
    intersection = random.binomial(union, 0.55)
    miou = 100 * float(np.mean(intersection.sum(0) / union.sum(0)))
    return {
        "numbers": {"miou": miou, "pixel_accuracy": 88.0},
        "protocol": {"multi_scale": False, "layers": 1},
        "notes": [],
        "seconds": 65.0,
        "kind": "iou",
        "arrays": {"intersection": intersection, "union": union, "rows": np.arange(images)},
    }


def depth(images: int = 60) -> dict[str, Any]:
    value = np.random.default_rng(3).gamma(9, 0.05, images)
    return {
        "numbers": {"rmse": float(value.mean()), "abs_rel": 0.121, "delta1": 86.3, "delta2": 97.4, "delta3": 99.5},
        "protocol": {"layers": 4, "bins": 256, "max_depth": 10.0},
        "notes": [],
        "seconds": 88.0,
        "kind": "rmse",
        "arrays": {"value": value, "rows": np.arange(images)},
    }


def make_results(folder: Path, tasks: dict[str, dict[str, Any]], changes: dict[str, Any] | None = None) -> Path:
    """A results folder of some tasks; `changes` are of the top level of results.json."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "per_image").mkdir()
    records = {}
    for name, task in tasks.items():
        arrays = task.get("arrays")
        if arrays:
            np.savez(folder / "per_image" / f"{name}.npz", **arrays)
        for picture in task.get("pictures", []):
            pixels = np.random.default_rng(0).integers(0, 255, (3, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((960, 240), 0).save(folder / picture["file"])
        records[name] = {key: value for key, value in task.items() if key != "arrays"}
        records[name]["per_image"] = f"per_image/{name}.npz" if arrays else None
    results = {
        "format": 1,
        "name": folder.name,
        "time": "2026-11-21T22:00:00+00:00",
        "command": "python -m dinotrain.evaluate task=all weights=runs/first data=cifar10 data.root=<here>",
        "weights": {
            "path": "runs/first",
            "layout": "run of this trainer, teacher at step 600",
            "digest": "6b1c9f0d",
            "architecture": {"embed_dim": 192, "depth": 6, "num_heads": 3, "patch_size": 8, "num_registers": 4},
            "step": 600,
        },
        "data": {
            "train": {"name": "cifar10", "fingerprint": "train-1", "images": 50000, "classes": 10},
            "test": {"name": "cifar10", "fingerprint": "test-1", "images": 1000, "classes": 10},
        },
        "resolution": {"size": 224, "crop_fraction": 0.875},
        "seed": 0,
        "versions": {"dinotrain": "0.1.0", "torch": "2.13.0"},
        "processes": 1,
        "tasks": records,
    }
    (folder / "results.json").write_text(json.dumps(results | (changes or {})))
    return folder
