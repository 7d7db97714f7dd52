"""Show what a backbone sees in images: pictures and a page.

python -m dinotrain.visualize weights=PATH IMAGE ... out=FOLDER [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin, print_config
from dinotrain.errors import Status, UserError

HELP = """\
usage: python -m dinotrain.visualize weights=PATH IMAGE ... out=FOLDER [key=value ...]

Draws what a backbone sees: patch tokens as colours (principal components, of all images together), the attention of the
CLS token per head, the patches similar to one patch, the nearest images. FOLDER gets report.html, a page in one file
where patches are pointed at or clicked, and PNG files.
IMAGE is an image file, a folder of images, tar shards and so on, any number of them; or data=NAME with its keys.
PATH of the weights is a run, a checkpoint, a .pth of DINO or DINOv2, a Hugging Face folder, a timm state dict, a
classifier.

most used keys:
  size=N                px; more of them make finer maps, also beyond what the network was trained at
  foreground=true       colours of the foreground alone: one side of the first component; other: the other side
  bank=PATH             look for the nearest images there, not among those given
  limit=12 k=5          most images; neighbours of each
  patch=[0,12]          the image and the patch, from 0, that are asked first
  square=true           the middle square of each image, as an evaluation sees it
  part=teacher          of a checkpoint with several networks
  device=cpu precision=bf16

options:
  --config    print the whole configuration, with what was typed, and end
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    from dinotrain.commands.visualization_words import parted

    if attempt.place is not None and attempt.place.size > 1:
        raise UserError(f"this is for one process; got {attempt.place.size}")
    overrides, images = parted([word for word in words if word != "--config"])
    if "--config" in words:
        return print_config("visualize", overrides)
    from dinotrain.commands.visualization import visualize

    return visualize(overrides, images)


if __name__ == "__main__":
    sys.exit(main())
