"""The keys of configs/evaluate.yaml as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinotrain.commands.config import near
from dinotrain.errors import UserError

TASKS = ("knn", "logistic", "linear", "retrieval", "clusters", "multilabel", "segmentation", "depth")


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is evaluated on what, and how; `configs/evaluate.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    task: str | Sequence[str]
    weights: str
    part: str | None = None
    num_heads: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    test_root: str | None = None
    validation_root: str | None = None
    extra_tests: Mapping[str, str] = field(default_factory=dict)
    max_train: int | None = None
    max_test: int | None = None
    size: int | None = None
    crop_fraction: float | None = None
    seed: int = 0
    batch: int = 128
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    cache: bool = True
    cache_gb: float = 100.0
    again: bool = False
    name: str | None = None
    output_dir: str | None = None

    def __post_init__(self) -> None:
        if not self._words:
            raise UserError(
                f"task: got {self.task!r}, expected a name or a list of names, such as [knn,linear], or all"
            )
        for task in self._words:
            if task not in (*TASKS, "all"):
                raise UserError(f"task: got {task!r}; {near(str(task), (*TASKS, 'all'))}")
        for key, least in (("batch", 1), ("seed", 0)):
            self._whole(key, least)
        for key in ("num_heads", "max_train", "max_test", "size", "threads"):
            if getattr(self, key) is not None:
                self._whole(key, 1)
        choices = {
            "part": (None, "teacher", "ema", "student"),
            "device": ("auto", "cpu", "cuda"),
            "precision": ("auto", "fp16", "bf16", "fp32"),
            "cache": (True, False),
            "again": (True, False),
        }
        for key, known in choices.items():
            if (got := getattr(self, key)) not in known or isinstance(got, bool) != (known == (True, False)):
                raise UserError(
                    f"{key}: got {got!r}, expected one of {', '.join(map(str, known)).replace('None', 'null')}"
                )
        for key in ("weights", "test_root", "validation_root", "name", "output_dir"):
            got = getattr(self, key)
            if got is not None and (not isinstance(got, str) or not got.strip()):
                raise UserError(f"{key}: got {got!r}, expected text")
        if self.name is not None and (Path(self.name).name != self.name or self.name == ".."):
            raise UserError(f"name: got {self.name!r}, expected the name of a folder, without slashes")
        crop = self.crop_fraction
        if crop is not None and (not _number(crop) or not 0 < crop <= 1):
            raise UserError(f"crop_fraction: got {self.crop_fraction!r}, expected a share in (0, 1]")
        if not _number(self.cache_gb) or self.cache_gb < 0:
            raise UserError(f"cache_gb: got {self.cache_gb!r}, expected 0 or more")
        for key in ("mean", "std"):
            self._check_channels(key)
        if not isinstance(self.extra_tests, Mapping) or not all(isinstance(v, str) for v in self.extra_tests.values()):
            raise UserError(f"extra_tests: got {self.extra_tests!r}, expected names and folders: {{v2: /data/v2}}")
        taken = sorted({"train", "test", "validation"} & set(self.extra_tests))
        if taken:
            raise UserError(f"extra_tests: got the name {taken[0]}, which is taken; expected another")

    def _check_channels(self, key: str) -> None:
        got = getattr(self, key)
        three = isinstance(got, list) and len(got) == 3 and all(map(_number, got))
        if got is not None and not (three and (key == "mean" or min(got) > 0)):
            raise UserError(f"{key}: got {got!r}, expected three numbers, of images in 0..1")

    def _whole(self, key: str, least: int) -> None:
        got = getattr(self, key)
        if not isinstance(got, int) or isinstance(got, bool) or got < least:
            raise UserError(f"{key}: got {got!r}, expected a whole number, at least {least}")

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that were named; none for "all"."""
        return () if "all" in self._words else tuple(dict.fromkeys(self._words))

    @property
    def _words(self) -> list[str]:
        words = self.task if isinstance(self.task, list) else [self.task] if self.task else []
        return [str(word) for word in words]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
