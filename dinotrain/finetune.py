"""Train a classifier on a backbone: a linear head on frozen features, or the whole network.

python -m dinotrain.finetune weights=PATH data=NAME data.root=PATH [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin, overrides_of, print_config
from dinotrain.errors import Status

HELP = """\
usage: python -m dinotrain.finetune weights=PATH data=NAME data.root=PATH [key=value ...]

Trains a classifier, on one process or several (torchrun). PATH of the weights is a run, a checkpoint, a .pth of DINO or
DINOv2, a Hugging Face folder, a timm state dict, or a classifier, which is gone on with. The run folder gets
classifier.safetensors (the best by the validation images), results.json, report.html. The same command again goes on
from where it was stopped.

most used keys:
  head=linear               linear: on CLS token and mean patch, backbone frozen; linear4: CLS tokens of 4 blocks;
                            full: all is trained (layer_decay=0.75 drop_path=0.1 ...)
  labels=single             one class per image, or multi: any number (data=multilabel_csv, coco, voc_labels);
                            default: as the images are labelled
  validation_root=PATH      as data.root, to choose the best by; default: the data's own test images, or else a tenth
  output_dir=DIR            where the run lives (default runs/finetune_DATA_HEAD)
  steps=N batch=N lr=X      updates, images per update, learning rate at the peak
  balance=loss              for classes of different sizes: weights in the loss, or sampling; label_smoothing=0.1
  crop_scale=[0.3,1.0]      area of the random crops (default 0.6 to 1); flip=0.5 color=0.4
  size=N                    px; default: as the run evaluates, else 224, or less where it was trained at less
  patience=5                evaluations (evaluate_every=N steps) without a better number before it ends; null: never
  micro_batch=N             images per process and forward pass, where memory is short
  device=cpu precision=bf16

options:
  --config    print the whole configuration, with what was typed, and end
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped before the first step; nothing to save")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    overrides = overrides_of(words)
    if "--config" in words:
        return print_config("finetune", overrides)
    from dinotrain.commands.finetuning import finetuned

    return finetuned(overrides, attempt).status


if __name__ == "__main__":
    sys.exit(main())
