"""Pre-train a vision transformer without labels, or distil a frozen one into smaller students.

python -m dinotrain.train +experiment=NAME [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.notices import plain_warnings
from dinotrain.commands.usage import help_text
from dinotrain.errors import Status, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, see `dinotrain.errors.Status`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return Status.DONE if words else Status.USAGE
    attempt = Attempt()
    with plain_warnings():
        return attempt.carry_out(lambda: _run(words, attempt))


def _run(words: Sequence[str], attempt: Attempt) -> Status:
    overrides = [word for word in words if word != "--config"]
    unknown = [word for word in overrides if word.startswith("-")]
    if unknown:
        raise UserError(f"{unknown[0]}: no such option; keys are given as key=value, --help lists the most used")
    from omegaconf import OmegaConf

    from dinotrain.commands.config import compose_config, without_secrets

    config = compose_config("train", overrides)
    if "--config" in words:
        print(OmegaConf.to_yaml(without_secrets(config)), end="")
        return Status.DONE
    from dinotrain.commands.pretrain import pretrain

    return pretrain(config, attempt).status


if __name__ == "__main__":
    sys.exit(main())
