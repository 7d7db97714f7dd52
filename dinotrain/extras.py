"""Packages that only some commands need."""

from __future__ import annotations

import importlib
from types import ModuleType

from dinotrain.errors import UserError


def require(module: str, *, extra: str, what: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its name, e.g. "onnxruntime".
        extra: of this package, that installs it.
        what: the key or the command that needs it, for the message.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise UserError(f"{what}: needs the package {missing}; pip install 'dinotrain[{extra}]'") from error
