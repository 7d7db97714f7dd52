"""What linear classifiers see of a backbone: CLS tokens of its last blocks, and the mean patch token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dinotrain.evaluation.backbone import PATCH, Backbone, cls_part
from dinotrain.evaluation.linear.heads import HeadInput

POOLING = {"cls": "CLS", "cls_patch": "CLS + mean patch"}


class LinearInputs(NamedTuple):
    """Parts of the features to ask for, and which of their columns each kind of head sees."""

    parts: tuple[str, ...]
    inputs: tuple[HeadInput, ...]


def linear_inputs(backbone: Backbone, blocks: Sequence[int], pooling: Sequence[str]) -> LinearInputs:
    """Every number of last blocks with every pooling; a network with fewer blocks gives all of them.

    Parts stand from the earliest block to the last, then the mean patch token, so that every input is one piece.
    """
    counts = tuple(dict.fromkeys(min(count, backbone.blocks) for count in blocks))
    deepest, patch = max(counts), "cls_patch" in pooling
    parts = tuple(cls_part(number) for number in range(deepest, 0, -1)) + ((PATCH,) if patch else ())
    inputs = []
    for count in counts:
        for name in pooling:
            columns = slice((deepest - count) * backbone.dim, (deepest + (name == "cls_patch")) * backbone.dim)
            inputs.append(HeadInput(f"last {count}, {POOLING[name]}", columns))
    return LinearInputs(parts, tuple(inputs))
