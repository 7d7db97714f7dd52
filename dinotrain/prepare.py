"""Convert any set of images to tar shards.

python -m dinotrain.prepare SOURCE out=DIR [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.notices import plain_warnings
from dinotrain.commands.preparation_help import help_text
from dinotrain.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0 if words else 2
    try:
        with plain_warnings():
            return _run([word for word in words if word != "--config"], "--config" in words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("stopped before the first image", file=sys.stderr)
        return 130


def _run(words: Sequence[str], show: bool) -> int:
    from omegaconf import OmegaConf

    from dinotrain.commands.config import compose_config, without_secrets
    from dinotrain.commands.recognition import overrides_of

    config = compose_config("prepare", overrides_of(words))
    if show:
        print(OmegaConf.to_yaml(without_secrets(config)), end="")
        return 0
    from dinotrain.commands.preparation import prepare

    return prepare(config)


if __name__ == "__main__":
    sys.exit(main())
