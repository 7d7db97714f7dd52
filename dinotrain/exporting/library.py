"""The libraries that exports are for."""

from __future__ import annotations

from types import ModuleType

from dinotrain.errors import UserError
from dinotrain.extras import require


def library(name: str, *, extra: str, what: str) -> ModuleType:
    """Import one.

    Raises:
        UserError: if it is not installed, or what it is built on does not fit, such as torchvision of another torch.
    """
    try:
        return require(name, extra=extra, what=what)
    except (ImportError, RuntimeError) as error:
        raise unusable(name, what, error) from error


def unusable(name: str, what: str, error: Exception) -> UserError:
    """What is told of a library that is there but can't be used."""
    reason = str(error).partition("\n")[0]
    return UserError(f"{what}: the installed {name} can't be used ({reason}); mend it, or check=false")
