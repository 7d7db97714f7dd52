"""Pre-train a vision transformer without labels, or distil a frozen one into smaller students.

python -m dinotrain.train +experiment=NAME [key=value ...]
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from dinotrain.commands.notices import plain_warnings
from dinotrain.commands.usage import help_text
from dinotrain.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done or stopped in order, 1 failed, 2 wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0 if words else 2
    show = "--config" in words
    overrides = [word for word in words if word != "--config"]
    unknown = [word for word in overrides if word.startswith("-")]
    try:
        if unknown:
            raise UserError(f"{unknown[0]}: no such option; keys are given as key=value, --help lists the most used")
        with plain_warnings():
            return _run(overrides, show)
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error{'' if rank == '0' else f' (process {rank})'}: {error}", file=sys.stderr, flush=True)
        _leave_at_once(1)
        return 1
    except Exception:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            raise
        traceback.print_exc()
        _leave_at_once(1)
        return 1
    except KeyboardInterrupt:
        print("stopped before the first step; nothing to save", file=sys.stderr)
        return 130


def _leave_at_once(status: int) -> None:
    """End a process of several without waiting for the others, which may be waiting for this one."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        os._exit(status)


def _run(overrides: Sequence[str], show: bool) -> int:
    from omegaconf import OmegaConf

    from dinotrain.commands.config import compose_config, without_secrets

    config = compose_config("train", overrides)
    if show:
        print(OmegaConf.to_yaml(without_secrets(config)), end="")
        return 0
    from dinotrain.commands.pretrain import pretrain

    pretrain(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
