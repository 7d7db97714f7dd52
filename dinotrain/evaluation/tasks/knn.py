"""k-NN classification: all k from one search, and with few training images per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from dinotrain.data.arguments import number, whole
from dinotrain.evaluation.class_names import class_names
from dinotrain.evaluation.confusion import confusion
from dinotrain.evaluation.knn import Verdict, vote
from dinotrain.evaluation.neighbour_picture import neighbour_picture
from dinotrain.evaluation.neighbours import Neighbours, nearest
from dinotrain.evaluation.outcome import Chart, Outcome, PerImage, Series, Table
from dinotrain.evaluation.setting import Setting, SplitFeatures


@dataclass(frozen=True, kw_only=True)
class Knn:
    """Weighted vote of the nearest training images by cosine similarity (Wu et al. 2018; DINO paper, section 4.1).

    The headline is the accuracy with the best k, as published for this family of models; all others stand beside it.

    Args:
        k: numbers of neighbours.
        temperature: a neighbour votes with weight exp(similarity / temperature).
        per_class: numbers of training images per class to repeat it with, drawn at random; none by default.
        repeats: draws for each of these.
    """

    k: Sequence[int] = (10, 20, 100, 200)
    temperature: float = 0.07
    per_class: Sequence[int] = ()
    repeats: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _ascending("k", self.k))
        object.__setattr__(self, "per_class", _ascending("per_class", self.per_class))
        if not self.k:
            raise ValueError("k: got an empty list, expected numbers of neighbours such as [10, 20, 100, 200]")
        if number("temperature", self.temperature, 0) == 0:
            raise ValueError("temperature: got 0, must be greater")
        whole("repeats", self.repeats, 1)

    def run(self, setting: Setting) -> Outcome:
        """Classify the test images by the training images."""
        classes = class_names(setting)
        train, test = setting.features(setting.train), setting.features(setting.test)
        found = self._search(setting, train, test, np.arange(len(train.rows)))
        verdicts = self._verdicts(found, train, test, np.arange(len(train.rows)), len(classes))
        best = _best({k: verdict.within(1) for k, verdict in verdicts.items()})
        numbers = {"top1": verdicts[best].within(1)}
        if len(classes) > 5:
            numbers["top5"] = verdicts[best].within(5)
        numbers |= {f"top1_k{k}": verdict.within(1) for k, verdict in verdicts.items()}
        if len(classes) > 5:
            numbers |= {f"top5_k{k}": verdict.within(5) for k, verdict in verdicts.items()}
        few = self._few(setting, train, test, len(classes))
        assert test.labels is not None
        right = verdicts[best].rank.numpy() == 0
        matrices, tables = confusion(test.labels, verdicts[best].predicted.numpy(), classes)
        return Outcome(
            numbers=numbers | few.numbers,
            protocol=self._protocol(setting, train, best),
            per_image=PerImage(kind="mean", rows=test.rows, arrays={"value": right.astype(np.float32)}),
            notes=self._notes(len(train.rows)) + _without_images(setting, train, test) + few.notes,
            charts=(_chart(verdicts, len(classes)),),
            matrices=matrices,
            tables=few.tables + tables,
            pictures=neighbour_picture(setting, train, test, found, right),
        )

    def _search(
        self, setting: Setting, train: SplitFeatures, test: SplitFeatures, rows: Int64[np.ndarray, "r"]
    ) -> Neighbours:
        """Neighbours among these rows of the training features."""
        bank = train.values if len(rows) == len(train.rows) else train.values[torch.from_numpy(rows)]
        return nearest(bank, test.values, max(self.k), world=setting.world, check=setting.tick)

    def _verdicts(
        self,
        found: Neighbours,
        train: SplitFeatures,
        test: SplitFeatures,
        rows: Int64[np.ndarray, "r"],
        classes: int,
    ) -> dict[int, Verdict]:
        assert train.labels is not None
        assert test.labels is not None
        labels, truth = torch.from_numpy(train.labels[rows]), torch.from_numpy(test.labels)
        return {k: vote(found, labels, truth, k=k, temperature=self.temperature, classes=classes) for k in self.k}

    def _few(self, setting: Setting, train: SplitFeatures, test: SplitFeatures, classes: int) -> Outcome:
        """Accuracy with few images per class: mean and standard deviation over draws, at the k with the best mean."""
        assert train.labels is not None
        numbers: dict[str, float] = {}
        notes: list[str] = []
        rows: list[tuple[str, ...]] = []
        smallest = int(np.unique(train.labels, return_counts=True)[1].min())
        for count in self.per_class:
            draws = []
            for repeat in range(self.repeats):
                drawn = drawn_per_class(train.labels, count, (setting.seed, repeat))
                found = self._search(setting, train, test, drawn)
                draws.append([v.within(1) for v in self._verdicts(found, train, test, drawn, classes).values()])
            mean, spread = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1 if self.repeats > 1 else 0)
            best = self.k.index(_best(dict(zip(self.k, mean.tolist()))))
            numbers |= {f"top1_{count}_per_class": float(mean[best]), f"std_{count}_per_class": float(spread[best])}
            rows.append((str(count), *(f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread))))
            if smallest < count:
                notes.append(f"{count} images per class: some classes have fewer (least {smallest}), they give all")
        table = Table(
            title="Few training images per class",
            note=f"Top-1 accuracy in percent for each k: mean and standard deviation over {self.repeats} draws.",
            columns=("images per class", *(f"k = {k}" for k in self.k)),
            rows=tuple(rows),
        )
        return Outcome(numbers=numbers, protocol={}, notes=tuple(notes), tables=(table,) if rows else ())

    def _protocol(self, setting: Setting, train: SplitFeatures, best: int) -> dict[str, Any]:
        few = {"per_class": list(self.per_class), "repeats": self.repeats, "seed": setting.seed}
        return {
            "features": "CLS token of the last block, length 1",
            "search": "exact, cosine similarity",
            "k": list(self.k),
            "best_k": best,
            "temperature": self.temperature,
            "bank": len(train.rows),
            **(few if self.per_class else {}),
        }

    def _notes(self, bank: int) -> tuple[str, ...]:
        beyond = [str(k) for k in self.k if k > bank]
        what = f"k = {', '.join(beyond)} is more than the {bank} training images: all of them vote"
        return (what,) if beyond else ()


def drawn_per_class(labels: Int64[np.ndarray, "n"], count: int, key: tuple[int, int]) -> Int64[np.ndarray, "r"]:
    """Ascending rows, `count` of each class drawn at random, or all of a class with fewer.

    For one key, the rows of a smaller count are among those of a larger one.
    """
    order = np.random.default_rng([*key, len(labels)]).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(by_class[place < count])


def _without_images(setting: Setting, train: SplitFeatures, test: SplitFeatures) -> tuple[str, ...]:
    """A note on classes that nothing can vote for."""
    everything = setting.train.source.labels
    assert everything is not None
    assert train.labels is not None
    assert test.labels is not None
    known = np.union1d(everything, test.labels)
    count = len(np.setdiff1d(known, train.labels))
    what = "1 class has" if count == 1 else f"{count} classes have"
    return (f"{what} no training image among the {len(train.rows)} that are used: never predicted",) if count else ()


def _ascending(name: str, values: object) -> tuple[int, ...]:
    """Whole numbers above zero, each once; a single one will do."""
    several = [values] if isinstance(values, int) else values
    if not isinstance(several, Sequence) or isinstance(several, str):
        raise ValueError(f"{name}: got {values!r}, expected a list such as [1, 10]")
    return tuple(sorted({whole(name, value, 1) for value in several}))


def _best(accuracy: dict[int, float]) -> int:
    """The k with the highest accuracy, of equal ones the smallest."""
    return min(accuracy, key=lambda k: (-accuracy[k], k))


def _chart(verdicts: dict[int, Verdict], classes: int) -> Chart:
    places = (1, 5) if classes > 5 else (1,)
    return Chart(
        title="Accuracy by number of neighbours",
        x_label="k",
        y_label="accuracy in %",
        log_x=True,
        series=tuple(
            Series(label=f"top-{top}", points=tuple((k, verdict.within(top)) for k, verdict in verdicts.items()))
            for top in places
        ),
    )
