"""The keys of configs/evaluate.yaml as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dinotrain.commands.backbone_request import BackboneRequest, is_number
from dinotrain.commands.config import near
from dinotrain.errors import UserError

TASKS = ("knn", "logistic", "linear", "retrieval", "clusters", "multilabel", "segmentation", "depth")


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest(BackboneRequest):
    """What is evaluated on what, and how; `configs/evaluate.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    task: str | Sequence[str]
    test_root: str | None = None
    validation_root: str | None = None
    extra_tests: Mapping[str, str] = field(default_factory=dict)
    max_train: int | None = None
    max_test: int | None = None
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
        super().__post_init__()
        self._check_computing()
        if not self._words:
            raise UserError(
                f"task: got {self.task!r}, expected a name or a list of names, such as [knn,linear], or all"
            )
        for task in self._words:
            if task not in (*TASKS, "all"):
                raise UserError(f"task: got {task!r}; {near(str(task), (*TASKS, 'all'))}")
        for key, least in (("batch", 1), ("seed", 0)):
            self._whole(key, least)
        for key in ("max_train", "max_test"):
            self._whole(key, 1, optional=True)
        for key in ("cache", "again"):
            self._one_of(key, (True, False))
        for key in ("test_root", "validation_root"):
            self._text(key, optional=True)
        self._check_place()
        if not is_number(self.cache_gb) or self.cache_gb < 0:
            raise UserError(f"cache_gb: got {self.cache_gb!r}, expected 0 or more")
        if not isinstance(self.extra_tests, Mapping) or not all(isinstance(v, str) for v in self.extra_tests.values()):
            raise UserError(f"extra_tests: got {self.extra_tests!r}, expected names and folders: {{v2: /data/v2}}")
        taken = sorted({"train", "test", "validation"} & set(self.extra_tests))
        if taken:
            raise UserError(f"extra_tests: got the name {taken[0]}, which is taken; expected another")

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that were named; none for "all"."""
        return () if "all" in self._words else tuple(dict.fromkeys(self._words))

    @property
    def _words(self) -> list[str]:
        words = self.task if isinstance(self.task, list) else [self.task] if self.task else []
        return [str(word) for word in words]
