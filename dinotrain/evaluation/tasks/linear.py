"""Linear classification of frozen features: the whole sweep in one pass, the best head by validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64
from torch import Tensor

from dinotrain.evaluation.class_names import class_names
from dinotrain.evaluation.confusion import confusion
from dinotrain.evaluation.linear.grid import grid, head_words
from dinotrain.evaluation.linear.heads import Classifier
from dinotrain.evaluation.linear.inputs import linear_inputs
from dinotrain.evaluation.linear.robustness import ClassMap, class_map
from dinotrain.evaluation.linear.scores import accuracies, best, ranked
from dinotrain.evaluation.linear.sweep import LinearSweep, Trained
from dinotrain.evaluation.outcome import Outcome, PerImage
from dinotrain.evaluation.setting import Setting, SplitFeatures
from dinotrain.evaluation.splits import held_out


@dataclass(frozen=True, kw_only=True)
class Linear(LinearSweep):
    """Accuracy of the best of many linear classifiers; options: see `LinearSweep`.

    Without a validation split the best is chosen on a part of the training images, which no head is trained on.
    """

    def run(self, setting: Setting) -> Outcome:
        """Train the heads, choose one, and measure it on the test images and all `setting.extra_tests`."""
        labels, classes = torch.from_numpy(setting.train.labels), class_names(setting)
        device = setting.backbone.device
        # What can be refused is looked at before anything is trained.
        meanings = {name: class_map(split, classes, name) for name, split in setting.extra_tests.items()}

        def targets(rows: Int64[np.ndarray, "B"]) -> Tensor:
            return F.one_hot(labels[torch.from_numpy(rows)].to(device), len(classes)).float()

        fit, held = np.arange(len(setting.train)), np.zeros(0, np.int64)
        if setting.validation is None:
            fit, held = held_out(setting.train.labels, self.held_out, setting.seed, setting.train.source.classes)
        for split in (setting.test, *setting.extra_tests.values()):
            setting.features(split, linear_inputs(setting.backbone, self.blocks, self.pooling).parts)
        trained = self.train(setting, fit, targets, len(classes))
        validation = self.choosing(setting, held, trained.parts)
        by_choice = accuracies(trained.heads, validation, setting.tick)
        test = self.testing(setting, trained.parts)
        by_test = accuracies(trained.heads, test, setting.tick)
        return self._outcome(setting, trained, meanings, test, (by_choice, by_test))

    def _outcome(
        self,
        setting: Setting,
        trained: Trained,
        meanings: Mapping[str, ClassMap],
        test: SplitFeatures,
        scores: tuple[Float64[np.ndarray, "heads 2"], Float64[np.ndarray, "heads 2"]],
    ) -> Outcome:
        (by_choice, by_test), classes = scores, class_names(setting)
        chosen = best(by_choice)
        classifier = trained.heads.classifier(chosen)
        assert test.labels is not None
        answers = ranked(classifier, test.values, setting.backbone.device)
        right = answers == test.labels[:, None]
        numbers = {"top1": _percent(right[:, 0])}
        if len(classes) > 5:
            numbers["top5"] = _percent(right.any(axis=1))
        numbers["validation_top1"] = float(by_choice[chosen, 0])
        extra, layouts = self._extra_tests(setting, classifier, trained.parts, meanings)
        matrices, tables = confusion(test.labels, answers[:, 0], classes)
        return Outcome(
            numbers=numbers | extra,
            protocol=self.protocol(setting) | {"chosen": head_words(self, trained, chosen), "extra_tests": layouts},
            per_image=PerImage(kind="mean", rows=test.rows, arrays={"value": right[:, 0].astype(np.float32)}),
            notes=trained.notes + _diverged(by_choice),
            matrices=(
                grid(self, trained, by_choice[:, 0], "Accuracy on the validation images", chosen),
                grid(self, trained, by_test[:, 0], "Accuracy on the test images", chosen),
                *matrices,
            ),
            tables=tables,
        )

    def _extra_tests(
        self, setting: Setting, classifier: Classifier, parts: Sequence[str], meanings: Mapping[str, ClassMap]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Accuracy of the chosen head on the further tests, and how their classes were understood."""
        numbers: dict[str, float] = {}
        layouts: dict[str, str] = {}
        for name, meant in meanings.items():
            found = setting.features(setting.extra_tests[name], parts)
            answers = ranked(classifier, found.values, setting.backbone.device, allowed=meant.allowed)
            right = answers == meant.labels[found.rows][:, None]
            numbers[f"top1_{name}"] = _percent(right[:, 0])
            count = classifier.classes if meant.allowed is None else len(meant.allowed)
            if count > 5:
                numbers[f"top5_{name}"] = _percent(right.any(axis=1))
            among = "" if meant.allowed is None else f"; predicted among its {count} classes alone"
            layouts[name] = f"{len(found.rows)} images, {meant.layout}{among}"
        return numbers, layouts


def _percent(right: np.ndarray) -> float:
    return 100 * float(right.mean())


def _diverged(scores: Float64[np.ndarray, "heads 2"]) -> tuple[str, ...]:
    count = int(np.isinf(scores[:, 1]).sum())
    return (f"{count} of {len(scores)} heads diverged and count as 0 %",) if count else ()
