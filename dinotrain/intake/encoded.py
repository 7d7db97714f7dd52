"""Images as base64 text."""

from __future__ import annotations

import base64
import binascii
import re

from dinotrain.intake.limits import Limits
from dinotrain.intake.picture import too_many_bytes
from dinotrain.intake.refused import Refused

_PREFIX = re.compile(r"data:(?P<kind>[^,;]*)(?P<options>(;[^,;]*)*),", re.IGNORECASE)
_SPACE = str.maketrans("", "", " \t\r\n")
_FOREIGN = re.compile(r"[^A-Za-z0-9+/=]")
_LONGEST_PREFIX = 200


def from_base64(text: str, limits: Limits) -> bytes:
    """The bytes that base64 text stands for (RFC 4648, section 4); white space may break its lines.

    Args:
        text: with or without a prefix such as `data:image/png;base64,`.
        limits: of the bytes.

    Raises:
        Refused: naming what is wrong with it.
    """
    # Before anything is copied: four characters stand for three bytes, and lines may be broken anywhere.
    if len(text) > 2 * limits.bytes + _LONGEST_PREFIX:
        raise too_many_bytes(limits)
    body = _without_prefix(text).translate(_SPACE)
    if not body:
        raise Refused("empty: 0 bytes")
    if foreign := _FOREIGN.search(body):
        raise Refused(f"wrong base64: {foreign[0]!a} at character {foreign.start() + 1} is none of its letters")
    if len(body) % 4:
        raise Refused(f"wrong base64: {len(body)} characters, no multiple of 4; is its end missing?")
    if len(body) // 4 * 3 - body[-2:].count("=") > limits.bytes:
        raise too_many_bytes(limits)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("wrong base64: = stands before its end") from error


def _without_prefix(text: str) -> str:
    """What follows the comma of a data URI; the text itself if it is none."""
    start = text[:_LONGEST_PREFIX].lstrip()
    if not start.lower().startswith("data:"):
        return text
    prefix = _PREFIX.match(start)
    if prefix is None:
        raise Refused("wrong data URI: no comma after its type; expected data:image/png;base64,...")
    if not prefix["options"].lower().endswith(";base64"):
        raise Refused("wrong data URI: not in base64; expected data:image/png;base64,...")
    return text[text.index(",") + 1 :]
