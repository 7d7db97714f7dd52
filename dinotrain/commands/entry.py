"""How a command begins: its help, its configuration on request, and one line for a mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from dinotrain.commands.ending import Attempt
from dinotrain.commands.notices import plain_warnings
from dinotrain.errors import Status, UserError

Run = Callable[[Sequence[str], Attempt], Status]


def begin(run: Run, arguments: Sequence[str] | None, *, help_text: str, interrupted: str) -> int:
    """Carry out a command, or print its help; returns the exit status.

    Args:
        run: what it does, told what was typed.
        arguments: what was typed; None for that of this process.
        interrupted: what to say at a Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        show(f"{help_text}\n")
        return Status.DONE if words else Status.USAGE
    attempt = Attempt(interrupted)
    with plain_warnings():
        return attempt.carry_out(lambda: run(words, attempt))


def overrides_of(words: Sequence[str], *, others: str = "") -> list[str]:
    """What was typed, without --config.

    Args:
        others: which words are taken besides `key=value`, for the message.

    Raises:
        UserError: for anything but `key=value`.
    """
    overrides = [word for word in words if word != "--config"]
    for word in overrides:
        if word.startswith("-") or "=" not in word:
            raise UserError(f"{word}: expected key=value{others}; --help lists the most used keys")
    return overrides


def print_config(root: str, overrides: Sequence[str]) -> Status:
    """Print `configs/<root>.yaml` with what was typed."""
    from omegaconf import OmegaConf

    from dinotrain.commands.config import compose_config, without_secrets

    show(OmegaConf.to_yaml(without_secrets(compose_config(root, overrides))))
    return Status.DONE


def show(text: str) -> None:
    """Print it, as far as whoever reads wants it: `--help | head` is no mistake."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # Python would write what is left at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
