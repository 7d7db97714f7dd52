"""In what two descriptions of features differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DIGEST = 32
"""Letters of one; of which the first are shown."""


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A text for each key with another value: that of what is there, that of what is asked for."""
    plain = json.loads(json.dumps(here))
    keys = [*plain, *(key for key in there if key not in plain)]
    return [
        f"{key}: {_text(there.get(key))} there, {_text(plain.get(key))} here"
        for key in keys
        if there.get(key) != plain.get(key)
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, str) and len(value) == DIGEST:
        return value[:8]
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
