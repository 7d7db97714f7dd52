"""`results.json` and what lies beside it."""

from __future__ import annotations

import datetime
import fcntl
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.evaluation_images import Images, fingerprint
from dinotrain.commands.evaluation_options import EvaluationRequest
from dinotrain.commands.evaluation_place import above, step_of
from dinotrain.distributed.failure import write_whole
from dinotrain.errors import UserError
from dinotrain.evaluation.bootstrap import interval
from dinotrain.evaluation.outcome import Outcome, Picture
from dinotrain.evaluation.pictures import save_picture
from dinotrain.evaluation.setting import Setting
from dinotrain.evaluation.splits import Split
from dinotrain.reporting.environment import PACKAGES, package_version
from dinotrain.reporting.evaluation_report import write_evaluation_report
from dinotrain.reporting.report import write_report
from dinotrain.reporting.run_folder import object_of, text_of
from dinotrain.weights.weights import Weights

FORMAT = 1
EVALUATIONS = "evaluations.jsonl"
"""Of a run folder: a row for each task and checkpoint that was evaluated."""


class Results:
    """The folder of an evaluation: one process writes it, task by task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = object_of(text_of(folder / "results.json"))

    @property
    def tasks(self) -> dict[str, Any]:
        """What is on record, by task."""
        return self.found.get("tasks", {})

    def begin(
        self, weights: Weights, digest: str, images: Images, setting: Setting, request: EvaluationRequest, data: str
    ) -> None:
        """Say what is evaluated; results of the same weights and images that are in the folder stay.

        Args:
            data: a name for the images.

        Raises:
            UserError: if the folder holds results of others.
        """
        preparation = setting.backbone.preparation
        about = {
            "weights": _of_weights(weights, digest),
            "data": _of_images(images, data),
            "resolution": {"size": preparation.size, "crop_fraction": preparation.crop_fraction},
            "normalization": [list(preparation.mean), list(preparation.std)],
            "precision": str(setting.backbone.dtype).removeprefix("torch."),
            "seed": request.seed,
        }
        plain = json.loads(json.dumps(about))
        different = [name for name, value in _decisive(plain).items() if _decisive(self.found)[name] != value]
        if self.found and different and not request.again:
            raise UserError(
                f"output_dir: {self.folder} holds results of other {', '.join(different)}; expected another folder, or "
                "again=true to replace them"
            )
        self.found = {
            "format": FORMAT,
            "name": self.folder.name,
            **about,
            "tasks": {} if different else dict(self.tasks),
            "processes": setting.world.size,
            "versions": {name: package_version(name) for name in (*PACKAGES, "scikit-learn", "faiss-cpu")},
            "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
            "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }

    def has(self, task: str, options: DictConfig) -> bool:
        """Whether a task was carried out with these options already."""
        return self.tasks.get(task, {}).get("options") == _plain(options)

    def add(
        self, task: str, outcome: Outcome, options: DictConfig, seconds: float, *, unreadable: Mapping[str, int]
    ) -> None:
        """Write what a task found, and the report anew.

        Args:
            unreadable: images that could not be read, by split.
        """
        record: dict[str, Any] = {
            "numbers": outcome.numbers,
            "protocol": outcome.protocol,
            "options": _plain(options),
            "notes": [
                *outcome.notes,
                *(f"{n} of the {split} images could not be read" for split, n in unreadable.items()),
            ],
            "seconds": round(seconds, 3),
            "charts": [asdict(chart) for chart in outcome.charts],
            "matrices": [asdict(matrix) for matrix in outcome.matrices],
            "tables": [asdict(table) for table in outcome.tables],
            "pictures": list(self._pictures(task, outcome.pictures)),
            "kind": None,
            "per_image": None,
            "interval": None,
        }
        if outcome.per_image is not None:
            path = self.folder / "per_image" / f"{task}.npz"
            path.parent.mkdir(exist_ok=True)
            beside = path.with_name(f"{task}.new.npz")
            np.savez_compressed(beside, allow_pickle=False, rows=outcome.per_image.rows, **outcome.per_image.arrays)
            os.replace(beside, path)
            record["kind"], record["per_image"] = outcome.per_image.kind, f"per_image/{task}.npz"
            ends = interval(outcome.per_image.kind, dict(outcome.per_image.arrays))
            record["interval"] = list(ends) if all(map(math.isfinite, ends)) else None
        with _alone(self.folder):
            # Another process may have carried out another task in the meantime.
            there = object_of(text_of(self.folder / "results.json"))
            if _decisive(there) == _decisive(json.loads(json.dumps(self.found, default=_number))):
                self.found["tasks"] = {**there.get("tasks", {}), **self.found["tasks"]}
            self.found["tasks"][task] = record
            write_whole(self.folder / "results.json", json.dumps(self.found, indent=1, default=_number))
            write_evaluation_report(self.folder)

    def publish(self) -> None:
        """Add the headlines to the records of the run that the weights are of, and to its report."""
        weights = self.found["weights"]
        run = above(weights["path"]).parent
        if weights["step"] is None or not (run / "metrics.jsonl").exists():
            return
        shown = [line for line in text_of(run / EVALUATIONS).splitlines() if line]
        test = self.found["data"]["test"]
        about = {"step": weights["step"], "data": test["name"], "fingerprint": test["fingerprint"]}
        about |= {"train": self.found["data"]["train"]["images"]}
        about |= {"resolution": self.found["resolution"], "results": str(self.folder)}
        rows = [
            {**about, "task": task, "numbers": record["numbers"], "interval": record["interval"]}
            for task, record in self.tasks.items()
        ]
        lines = [json.dumps(row) for row in rows]
        try:
            with (run / EVALUATIONS).open("a") as file:
                file.write("".join(f"{line}\n" for line in lines if line not in shown))
            write_report(run)
        except OSError as error:
            print(f"warning: {run} does not get these points in its report ({error.strerror})", file=sys.stderr)

    def _pictures(self, task: str, pictures: Iterable[Picture]) -> Iterable[dict[str, str]]:
        for picture in pictures:
            file = f"pictures/{task}_{picture.name}.png"
            save_picture(picture.image, self.folder / file)
            yield {"file": file, "title": picture.title, "note": picture.note}


def _decisive(results: Mapping[str, Any]) -> dict[str, Any]:
    """What results must agree in to stand beside each other."""
    keys = ("data", "resolution", "normalization", "precision", "seed")
    return {"weights": (results.get("weights") or {}).get("digest"), **{key: results.get(key) for key in keys}}


def _of_weights(weights: Weights, digest: str) -> dict[str, Any]:
    return {
        "path": weights.path,
        "layout": weights.layout,
        "digest": digest,
        "architecture": vars(weights.architecture),
        "step": step_of(weights),
        "notes": list(weights.notes),
    }


def _of_images(images: Images, data: str) -> dict[str, Any]:
    splits = {"train": images.train, "test": images.test, "validation": images.validation}
    own = {name: _of_split(split, data) for name, split in splits.items() if split is not None}
    return own | {name: _of_split(split, name) for name, split in images.extra_tests.items()}


def _of_split(split: Split, name: str) -> dict[str, Any]:
    classes = split.source.classes
    return {
        "name": name,
        "fingerprint": fingerprint(split),
        "images": len(split),
        "classes": len(classes) if classes else None,
    }


def _plain(options: DictConfig) -> Any:
    return json.loads(json.dumps(OmegaConf.to_container(options, resolve=True)))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system can do that."""
    with (folder / ".lock").open("ab") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _number(value: Any) -> Any:
    """Numbers of numpy, which JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not for results.json")
