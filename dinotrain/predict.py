"""Tell the classes of images.

python -m dinotrain.predict model=CLASSIFIER IMAGE ... [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin
from dinotrain.errors import Status

HELP = """\
usage: python -m dinotrain.predict model=CLASSIFIER IMAGE ... [key=value ...]

Tells the classes of images, one after another as they are read. CLASSIFIER is a run of dinotrain.finetune, or its
classifier.safetensors. IMAGE is a file, a folder (at any depth), a URL (http, https), or - for a line of base64 per
image on standard input. Images that can't be read are told, the others answered; the exit status is then 1.

most used keys:
  format=table|jsonl|csv    default: table before a terminal, else jsonl; errors are a field of jsonl and csv
  form=ranked|probs         [{"label": ..., "score": ...}, ...], or {"probs": [...], "labels": [...]} (not for tables)
  top=N                     most classes of an answer; default: 5, or all with form=probs
  threshold=P               with several labels per image: least probability of those told, 0 for all; default: the
                            classifier's own
  batch=N device=cpu precision=bf16
  urls.seconds=10           for all of a transfer
  urls.private=true         read URLs of private and loopback addresses, too
  limits.max_mb=100 limits.max_megapixels=200

options:
  --config    print the whole configuration, with what was typed, and end
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    from dinotrain.commands.prediction import predict

    return predict(words)


if __name__ == "__main__":
    sys.exit(main())
