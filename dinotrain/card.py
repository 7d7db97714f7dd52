"""Write the model card of a run.

python -m dinotrain.card RUN [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dinotrain.errors import Status, UserError

HELP = """\
usage: python -m dinotrain.card RUN [key=value ...]

Writes RUN/MODEL_CARD.md: architecture, data, recipe, hardware, time, energy, CO2, and the results in RUN/evaluations
(see python -m dinotrain.evaluate). What was not measured says so. The front matter is what the Hugging Face Hub reads;
the license is left to you. A card that was edited is not overwritten.

keys:
  out=FILE        another place
  watts=N         mean power of all machines together; without it, what the GPUs were measured at, or else assumed
  grid=0.385      kg of CO2 equivalent per kWh where it ran
  pue=1.1         watts that the data centre drew per watt of its machines
  force=true      also over an edited card

options:
  --help      this text"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 1 failed, 2 wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return Status.DONE if words else Status.USAGE
    try:
        print(f"model card: {_write(words)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return Status.FAILED
    return Status.DONE


def _write(words: Sequence[str]) -> Path:
    runs = [word for word in words if "=" not in word]
    if len(runs) != 1 or runs[0].startswith("-"):
        raise UserError(f"got {' '.join(runs) or 'no run'}, expected the folder of one run, and then key=value")
    from dinotrain.commands.card import CardOptions, write_card

    return write_card(Path(runs[0]), CardOptions.of([word for word in words if "=" in word]))


if __name__ == "__main__":
    sys.exit(main())
