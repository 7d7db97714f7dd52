"""Write a model in the form that other libraries load.

python -m dinotrain.export weights=PATH format=NAME out=PATH [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin, overrides_of, print_config
from dinotrain.errors import Status

HELP = """\
usage: python -m dinotrain.export weights=PATH format=NAME out=PATH [key=value ...]

Writes a backbone or a classifier in the form that other libraries load, reads it back with that library, and compares
its features with ours on random images of several sizes: what differs is not kept. PATH of the weights is a run, a
checkpoint, a classifier, a .pth of DINO or DINOv2, a Hugging Face folder, a timm state dict.

formats (also a list, with a folder as out: format=[hf,onnx]):
  hf            folder for transformers: AutoModel, AutoModelForImageClassification, AutoImageProcessor
  hub           .pth as the released ones, for torch.hub.load("CHECKOUT", "dinov2_vits14", source="local", weights=FILE)
  timm          state dict that timm.create_model(...) loads strictly
  onnx          any batch, height and width (multiples of the patch); dtype=fp16
  torch         torch.export program (.pt2) that needs torch alone
  safetensors   file of this trainer: weights with their description

most used keys:
  dtype=fp16          of the stored weights; onnx and torch also compute in it
  image_size=224      store positions for this size: then exact there in libraries that resize them by another rule
  size=224            px of the images it is meant for
  head=false          the backbone of a classifier alone
  opset=20            of onnx
  check=false         don't read it back
  force=true          also over files that exist

options:
  --config    print the whole configuration, with what was typed, and end
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped; formats that are not finished were not kept")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    overrides = overrides_of(words)
    if "--config" in words:
        return print_config("export", overrides)
    from dinotrain.commands.config import compose_config
    from dinotrain.commands.export import export

    return export(compose_config("export", overrides))


if __name__ == "__main__":
    sys.exit(main())
