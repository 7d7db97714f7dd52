"""Plain-language warnings: what is happening to a run, and which keys to try."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

PATIENCE = 5
"""Logged rows in a row that show a trouble before it is said, or show none before it counts as over."""
NEAR = 0.98
"""Shares of ln K from here on count as being at ln K."""
LEARNED = 0.95
"""A loss or an entropy that was below this share of ln K had left it."""
CERTAIN = 0.02
"""Target entropies below this share of ln K count as none."""
FEW_DIMENSIONS = 4.0
"""Effective ranks below this are a collapse of dimensions, where the batch can show more."""
WAITING = 0.3
"""Share of time waiting for data that is too much."""
SKIPPING = 0.2
"""Share of the latest steps skipped in fp16 that is too much."""
SKIPPED = 8
"""As few skipped steps as this are no trouble: a few at the start are how the loss scale is found."""
SKIPPING_ROWS = 50
"""Logged rows that the latest steps are."""
FALL = 5.0
"""Percentage points that k-NN may lie below its best."""


@dataclass
class _Watch:
    """One kind of trouble: looked for in every row, said once until it is over."""

    troubled: Callable[[Row], bool | None]
    """None for a row that does not tell."""
    text: Callable[[Row], str]
    patience: int = PATIENCE
    said: bool = False
    _run: int = 0

    def check(self, row: Row) -> str | None:
        troubled = self.troubled(row)
        if troubled is None:
            return None
        # Counts rows that speak against the present state: troubled ones while all is well, good ones while it is not.
        self._run = self._run + 1 if troubled != self.said else 0
        if self._run < self.patience:
            return None
        self.said, self._run = troubled, 0
        return self.text(row) if troubled else None


class Advisor:
    """Reads the rows of a run as they are logged, and says what is wrong.

    A trouble is said when several rows in succession show it, and again only after it was over. Whatever was said
    before is known from the earlier rows of a resumed run.

    Args:
        num_prototypes: K of the DINO head; chance level is ln K. None for a method without prototypes.
        rows: rows logged before, oldest first.
        images: per process and forward pass: the effective rank is below it. None if it is large.
    """

    def __init__(self, *, num_prototypes: int | None, rows: Iterable[Row] = (), images: int | None = None) -> None:
        if num_prototypes is not None and num_prototypes < 2:
            raise ValueError(f"num_prototypes: got {num_prototypes}, expected at least 2")
        # Rows of a method without prototypes have none of the values that are held against the chance level.
        self.chance = math.log(num_prototypes) if num_prototypes is not None else math.inf
        self.rank_limit = min(FEW_DIMENSIONS, (images - 1) / 2) if images is not None else FEW_DIMENSIONS
        self._warm = False
        self._lr = -math.inf
        self._lowest_loss, self._lowest_entropy, self._highest_rank = math.inf, math.inf, 0.0
        self._best_knn, self._best_knn_step = -math.inf, 0
        self._skipped: deque[tuple[int, int]] = deque(maxlen=SKIPPING_ROWS)
        self._watches = (
            _Watch(self._loss_at_chance, self._say_loss_at_chance),
            _Watch(self._targets_certain, self._say_targets_certain),
            _Watch(self._targets_uniform, self._say_targets_uniform),
            _Watch(self._few_dimensions, self._say_few_dimensions),
            _Watch(self._scale_too_small, self._say_scale_too_small, patience=1),
            _Watch(self._many_skipped, self._say_many_skipped, patience=1),
            _Watch(self._waiting, self._say_waiting),
            _Watch(self._knn_falling, self._say_knn_falling, patience=2),
        )
        for row in rows:
            self.check(row)

    def check(self, row: Row) -> list[str]:
        """Warnings that this row gives rise to; rows of training steps and of evaluations alike."""
        self._remember(row)
        texts = [watch.check(row) for watch in self._watches]
        return [text for text in texts if text is not None]

    def _remember(self, row: Row) -> None:
        lr = row.get("lr")
        if lr is not None:
            # The schedule rises to the end of the warm-up and never after it.
            self._warm = self._warm or lr <= self._lr
            self._lr = lr
        self._lowest_loss = min(self._lowest_loss, _number(row, "dino_loss", math.inf))
        self._lowest_entropy = min(self._lowest_entropy, _number(row, "teacher_entropy", math.inf))
        self._highest_rank = max(self._highest_rank, _number(row, "effective_rank", 0.0))
        if row.get("skipped_steps") is not None:
            self._skipped.append((row["step"], row["skipped_steps"]))
        if _number(row, "knn_top1", -math.inf) > self._best_knn:
            self._best_knn, self._best_knn_step = row["knn_top1"], row["step"]

    def _loss_at_chance(self, row: Row) -> bool | None:
        loss = row.get("dino_loss")
        # At the start every network is at ln K; only then, and while warming up, is it no bad sign.
        if loss is None or not (self._warm or self._lowest_loss < LEARNED * self.chance):
            return None
        # Above it, a network starts with the wrong answers, and is on its way.
        return None if loss > self.chance / NEAR else loss >= NEAR * self.chance

    def _say_loss_at_chance(self, row: Row) -> str:
        return (
            f"the DINO loss sits at ln K = {self.chance:.2f} (now {row['dino_loss']:.2f}), the value of a network that "
            "is collapsed or tells nothing apart; try a smaller optim.base_lr, a lower optim.teacher_temperature, "
            "fewer prototypes (method.dino_head.num_prototypes), or a larger optim.global_batch"
        )

    def _targets_certain(self, row: Row) -> bool | None:
        entropy = row.get("teacher_entropy")
        if entropy is None:
            return None
        # Certain targets that differ between images are no collapse.
        return entropy < CERTAIN * self.chance and _number(row, "prototypes_used", 0.0) < 0.5

    def _say_targets_certain(self, row: Row) -> str:
        return (
            "the teacher puts all images on few prototypes with certainty (target entropy "
            f"{row['teacher_entropy']:.3f} nats): the targets are collapsing; try method.objective.targets=sinkhorn, a "
            "higher optim.teacher_temperature and optim.teacher_temperature_start, or a longer optim.freeze_last_layer"
        )

    def _targets_uniform(self, row: Row) -> bool | None:
        entropy = row.get("teacher_entropy")
        if entropy is None or not (self._warm or self._lowest_entropy < LEARNED * self.chance):
            return None
        return entropy >= NEAR * self.chance

    def _say_targets_uniform(self, row: Row) -> str:
        return (
            f"the teacher's targets are nearly uniform (entropy {row['teacher_entropy']:.2f} of at most "
            f"{self.chance:.2f} nats), so there is nothing to learn from them; try a lower optim.teacher_temperature "
            "and optim.teacher_temperature_start, or fewer prototypes (method.dino_head.num_prototypes)"
        )

    def _few_dimensions(self, row: Row) -> bool | None:
        rank = row.get("effective_rank")
        if rank is None or not (self._warm or self._highest_rank > 2 * self.rank_limit):
            return None
        return rank < self.rank_limit

    def _say_few_dimensions(self, row: Row) -> str:
        others = ""
        if math.isfinite(self.chance):
            others = ", a larger method.objective.koleo_weight, or a lower optim.teacher_temperature"
        return (
            f"the features vary in {row['effective_rank']:.1f} dimensions only (effective rank): images are becoming "
            f"alike to the network; try a smaller optim.base_lr{others}"
        )

    def _scale_too_small(self, row: Row) -> bool | None:
        scale = row.get("loss_scale")
        return None if scale is None else scale < 1

    def _say_scale_too_small(self, row: Row) -> str:
        return (
            f"the loss scale of fp16 has fallen to {row['loss_scale']:g}: gradients overflow again and again, and the "
            "run is about to diverge; try runtime.precision=bf16 (or fp32), or a smaller optim.base_lr"
        )

    def _many_skipped(self, row: Row) -> bool | None:
        if row.get("skipped_steps") is None:
            return None
        skipped, steps = self._skipped_lately()
        return skipped >= SKIPPED and skipped > SKIPPING * steps

    def _skipped_lately(self) -> tuple[int, int]:
        """Steps skipped, of how many."""
        (first, before), (last, after) = self._skipped[0], self._skipped[-1]
        return after - before, last - first

    def _say_many_skipped(self, row: Row) -> str:
        skipped, steps = self._skipped_lately()
        return (
            f"{skipped} of the latest {steps} steps were skipped because gradients overflowed in fp16 "
            f"({row['skipped_steps']} in all); try runtime.precision=bf16 (or fp32), or a smaller optim.base_lr"
        )

    def _waiting(self, row: Row) -> bool | None:
        share = row.get("data_wait")
        return None if share is None else share > WAITING

    def _say_waiting(self, row: Row) -> str:
        return (
            f"{row['data_wait']:.0%} of the time goes by waiting for data: reading and augmenting images is the "
            "bottleneck; try more runtime.workers where cores are free, a larger runtime.prefetch, a smaller "
            "crops.num_local, or smaller image files on a local disk"
        )

    def _knn_falling(self, row: Row) -> bool | None:
        accuracy = row.get("knn_top1")
        return None if accuracy is None else accuracy < self._best_knn - FALL

    def _say_knn_falling(self, row: Row) -> str:
        others = ""
        if math.isfinite(self.chance):
            others = ", a larger method.objective.koleo_weight, or fewer prototypes (method.dino_head.num_prototypes)"
        return (
            f"k-NN accuracy is falling: {row['knn_top1']:.1f} % now, {self._best_knn:.1f} % at step "
            f"{self._best_knn_step}; the features get worse while the loss is optimised; try a smaller "
            f"optim.base_lr{others}"
        )


def _number(row: Row, key: str, default: float) -> float:
    value = row.get(key)
    return default if value is None or math.isnan(value) else value
