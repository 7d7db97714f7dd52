"""The columns of a table of image paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dinotrain.errors import UserError

_DEFAULT_LABEL = "label"


class Columns(NamedTuple):
    """Where a table holds what."""

    path: str = "path"
    label: str | None = _DEFAULT_LABEL
    """None for no labels; this one need not be there."""

    def find(self, file: str, names: Sequence[str]) -> tuple[str, str | None]:
        """Names of the columns with paths and with labels.

        Raises:
            UserError: there is no such column.
        """
        label = None if self.label == _DEFAULT_LABEL and _DEFAULT_LABEL not in names else self.label
        for key, name in (("path_column", self.path), ("label_column", label)):
            if name is not None and name not in names:
                there = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                raise UserError(f"data.{key}: {file} has no column {name}; there are: {there or 'none'}")
        return self.path, label
