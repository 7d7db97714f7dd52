"""Measure what a backbone is worth on labelled images.

python -m dinotrain.evaluate task=NAME weights=PATH data=NAME [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin, overrides_of, print_config
from dinotrain.errors import Status

HELP = """\
usage: python -m dinotrain.evaluate task=NAME weights=PATH data=NAME data.root=PATH [key=value ...]
       python -m dinotrain.evaluate compare RUN RUN ... [--all] [--json FILE]
       python -m dinotrain.evaluate watch RUN task=NAME data=NAME [key=value ...]

Measures a frozen backbone on labelled images, on one process or several (torchrun). PATH of the weights is a run, a
checkpoint, a .pth of DINO or DINOv2, a Hugging Face folder, a timm state dict. Results go to RUN/evaluations/NAME (or
evaluations/WEIGHTS/NAME): results.json, report.html, pictures. Features are kept for the next task.
`compare` puts results beside each other, with confidence intervals (--all: of all steps). `watch` evaluates each new
checkpoint of a run.

tasks:
  knn             k nearest neighbours, all k at once; subsets with knn.per_class=[1,10]
  logistic        logistic regression, C chosen on held-out images
  linear          a grid of linear classifiers in one pass, with augmentation; robustness sets with extra_tests
  retrieval       nearest neighbours; classes or landmark files as ground truth
  clusters        k-means, labels only to score it
  multilabel      linear classifiers for images with several labels (data=multilabel_csv, coco, voc_labels)
  segmentation    linear layer on patch tokens (data=masks, ade20k, voc, cityscapes, scenes)
  depth           linear layer on patch tokens (data=depth, nyu, sunrgbd, scenes)
  all             all that the images allow; also a list: task=[knn,linear]

most used keys:
  test_root=PATH            images to measure on, as data.root; without any, a tenth of data.root is held out
  size=N                    px; default: as the run evaluates, else 224, or less where it was trained at less
  max_train=N max_test=N    a random draw of the images
  batch=N                   images per process and forward pass
  device=cpu precision=bf16
  once=true poll=30         of watch: end when there is no new checkpoint; seconds between looks
  knn.k=[5,20] linear.steps=1000 segmentation.steps=... and so on: --config shows all

options:
  --config    print the whole configuration, with what was typed, and end
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped; the results of finished tasks are kept")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    if words[0] == "compare":
        from dinotrain.commands.comparison import compare

        return Status(compare(words[1:]))
    if words[0] == "watch":
        from dinotrain.commands.watching import watch

        return watch(words[1:], attempt).status
    overrides = overrides_of(words, others=", compare or watch")
    if "--config" in words:
        return print_config("evaluate", overrides)
    from dinotrain.commands.evaluation import evaluate

    return evaluate(overrides, attempt).status


if __name__ == "__main__":
    sys.exit(main())
