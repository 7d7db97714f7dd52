"""Names of tasks and of their numbers, and the numbers, as a reader gets them."""

from __future__ import annotations

import re

TASKS = {
    "knn": "k-NN",
    "logistic": "Logistic regression",
    "linear": "Linear classifier",
    "retrieval": "Retrieval",
    "segmentation": "Segmentation",
    "depth": "Depth",
    "clusters": "Clusters",
    "multilabel": "Several labels per image",
}
_WORDS = {
    "map": "mAP",
    "miou": "mIoU",
    "iou": "IoU",
    "rmse": "RMSE",
    "nmi": "NMI",
    "ari": "ARI",
    "absrel": "AbsRel",
    "k": "k =",
    "imagenet": "ImageNet",
    "v2": "V2",
}
_METRES = ("rmse", "mae")
_ERRORS = ("rmse_log", "abs_rel", "sq_rel", "log10", "silog", "loss", *_METRES)


def _is_of(key: str, names: tuple[str, ...]) -> bool:
    """Whether a key is that of one of some numbers, maybe with what it is of before or after it."""
    return any(f"_{name}_" in f"_{key}_" for name in names)


def task_title(task: str) -> str:
    """The name of a task; of one that is not known, its own."""
    return TASKS.get(task) or task.replace("_", " ").capitalize()


def number_label(key: str) -> str:
    """The name of a number, from its key: `top1_k10` is "top-1, k = 10"."""
    key = key.replace("abs_rel", "absrel")
    words = []
    for word in key.split("_"):
        if found := re.fullmatch(r"(top|k|delta)(\d+)", word):
            name, digits = found.groups()
            words.append({"top": "top-", "k": "k = ", "delta": "δ"}[name] + digits)
        else:
            words.append(_WORDS.get(word, word))
    return " ".join(words)


def unit(key: str) -> str:
    """Of a number: shares are in percent, depths in metres."""
    if not lower_is_better(key):
        return "%"
    return "m" if _is_of(key, _METRES) and not _is_of(key, _ERRORS[: -len(_METRES)]) else ""


def lower_is_better(key: str) -> bool:
    """Whether a number is an error."""
    return _is_of(key, _ERRORS)


def number_text(key: str, value: float) -> str:
    """A number with its unit."""
    return f"{figures(key, value)} {unit(key)}".rstrip()


def figures(key: str, value: float) -> str:
    """A number without its unit, to one place of percents and three of what is smaller."""
    return f"{value:.1f}" if unit(key) == "%" else f"{value:.3f}"


def interval_text(key: str, low: float, high: float) -> str:
    """An interval without its unit."""
    return f"{figures(key, low)} to {figures(key, high)}"


def difference_text(key: str, value: float) -> str:
    """A difference with its sign, to one place more than the numbers that it is of."""
    return f"{value:+.2f}" if unit(key) == "%" else f"{value:+.4f}"
