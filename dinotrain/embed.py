"""Write the features of many images to one file.

python -m dinotrain.embed weights=PATH images=PATH out=FILE [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.entry import begin, print_config
from dinotrain.errors import Status

HELP = """\
usage: python -m dinotrain.embed weights=PATH images=PATH out=FILE [key=value ...] [--neighbours IMAGE ...]

Writes what a backbone says of many images to one file: FILE.parquet (a row per image), .npy (one array, names in
FILE.npy.names.csv), .npz or .pt (an array for each kind of token). On one process or several (torchrun), on one machine
or on several that share the folder. The same command goes on where it was stopped, and the file has the same bytes as
without a stop. Images that can't be read are in no row; FILE.skipped.txt lists them, FILE.json says how all was made.
PATH of the images is a folder, tar shards, Parquet files, a list, arrays; or data=NAME with its keys, as for training.
PATH of the weights is a run, a checkpoint, a .pth of DINO or DINOv2, a Hugging Face folder, a timm state dict, a
classifier.

most used keys:
  tokens=[cls,mean]         cls (default), mean (of the patch tokens), patches (all of them)
  layers=[1,2]              1 for the last block (default), 2 for the one before, and so on
  size=N                    px; default: as the run evaluates, else 224, or less where it was trained at less
  dtype=float16             half the room
  batch=N                   images per process and forward pass
  part=teacher              of a checkpoint with several networks
  device=cpu precision=bf16
  again=true                begin anew, also where there is such a file already
  k=10                      neighbours of each image that is asked for

options:
  --neighbours IMAGE    print the images most similar to this one, and draw them; with a file that is there already,
                        nothing is computed again. May be given several times
  --config              print the whole configuration, with what was typed, and end
  --help                this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    return begin(_run, arguments, help_text=HELP, interrupted="stopped; what is done is kept, the same command goes on")


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    from dinotrain.commands.embedding_words import overrides_of

    overrides = overrides_of([word for word in words if word != "--config"])
    if "--config" in words:
        return print_config("embed", overrides)
    from dinotrain.commands.embedding import embed

    return embed(overrides, attempt)


if __name__ == "__main__":
    sys.exit(main())
