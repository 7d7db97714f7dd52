"""Show what the trainer would see of a set of images.

python -m dinotrain.inspect SOURCE [+experiment=NAME] [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.notices import plain_warnings
from dinotrain.commands.recognition import overrides_of
from dinotrain.errors import UserError

HELP = """\
usage: python -m dinotrain.inspect SOURCE [+experiment=NAME] [key=value ...]
       python -m dinotrain.inspect data=NAME data.root=PATH [+experiment=NAME] [key=value ...]

Shows what training would see of a set of images: number, labels, formats, sizes, broken files; a picture of crops and
masks as the student gets them; images per second by number of workers. Takes all keys of dinotrain.train, and ends
with the command to type for training. Nothing is trained, and no run folder is touched. SOURCE is a folder, file or
URL whose kind can be told, as for dinotrain.prepare.

keys:
  inspect.images=500            files that are read, drawn evenly over the set; null reads all
  inspect.broken=FILE           list those that can't be used, as name<TAB>reason
  inspect.pictures=6            images in the picture; 0 for no picture
  inspect.out=inspection.png    the picture
  inspect.seconds=5             of each measurement of throughput; 0 for none
  inspect.max_workers=N         most worker processes that are tried; null for one per core

options:
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    try:
        overrides = overrides_of(words)
        from dinotrain.commands.config import compose_config
        from dinotrain.commands.inspection import inspect

        with plain_warnings():
            # A teacher has no say in what the images are.
            inspect(compose_config("inspect", [*overrides, "teacher.weights=null"]), overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
