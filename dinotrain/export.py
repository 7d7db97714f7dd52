"""Write a model in the form that other libraries load.

python -m dinotrain.export weights=PATH format=NAME out=PATH [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.notices import plain_warnings
from dinotrain.errors import Status, UserError

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
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return Status.DONE if words else Status.USAGE
    attempt = Attempt(interrupted="stopped; formats that are not finished were not kept")
    with plain_warnings():
        return attempt.carry_out(lambda: _run(words))


def _run(words: Sequence[str]) -> Status:
    overrides = [word for word in words if word != "--config"]
    unknown = [word for word in overrides if word.startswith("-") or "=" not in word]
    if unknown:
        raise UserError(f"{unknown[0]}: expected key=value; --help lists the most used keys")
    from dinotrain.commands.config import compose_config

    config = compose_config("export", overrides)
    if "--config" in words:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config), end="")
        return Status.DONE
    from dinotrain.commands.export import export

    return export(config)


if __name__ == "__main__":
    sys.exit(main())
