"""From a part of the configuration to the object it describes."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from dinotrain.errors import UserError


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a part of the configuration; what its constructor refuses becomes one line.

    Raises:
        UserError: with the message of the constructor.
    """
    try:
        made = instantiate(node, _convert_="all")
        return made(**arguments) if node.get("_partial_") else made
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, UserError)):
            raise UserError(_placed(node, cause)) from cause
        raise
    except ValueError as error:
        raise UserError(_placed(node, error)) from error


def _placed(node: DictConfig, error: Exception) -> str:
    """The message of a constructor, with the place of its keys in the configuration before it."""
    where, text = node._get_full_key(None), str(error)
    if text.startswith(where.split(".")[0]):
        return text
    parent = node._get_parent()
    # An argument that was given as a key of the node above it is known to the user by that key.
    if isinstance(parent, DictConfig) and text.partition(":")[0] in parent:
        where = where.rpartition(".")[0]
    return f"{where}.{text}" if where else text
