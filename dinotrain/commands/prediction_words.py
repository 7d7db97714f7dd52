"""What was typed after `predict` or `serve`: keys, and other words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dinotrain.errors import UserError

_KEY = re.compile(r"[~+]*[\w@][\w.@-]*=|~")
_MODEL = re.compile(r"(\+*)model(?==)")


class Words(NamedTuple):
    """The parts of what was typed."""

    overrides: list[str]
    others: list[str]
    config: bool
    """Whether the configuration is to be printed."""


def split_words(words: Sequence[str], *, example: str) -> Words:
    """Take what was typed apart.

    Args:
        example: a line to show to those who do not say which model.

    Raises:
        UserError: for an unknown option, or without a model.
    """
    overrides = [_as_key(word) for word in words if _KEY.match(word)]
    others = [word for word in words if not _KEY.match(word) and word != "--config"]
    for word in others:
        if word.startswith("-") and word != "-":
            raise UserError(f"{word}: no such option; keys are given as key=value, --help lists them")
    if not any(re.match(r"\+*model\.path=", override) for override in overrides):
        raise UserError(f"model is missing: {example}")
    return Words(overrides, others, "--config" in words)


def _as_key(word: str) -> str:
    """`model=PATH` as a key: to Hydra, `model` is a folder of configurations for training."""
    return _MODEL.sub(r"\1model.path", word)
