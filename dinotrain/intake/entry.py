"""One image of a request, as text: base64 or a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dinotrain.intake.encoded import from_base64
from dinotrain.intake.fetch import Fetcher
from dinotrain.intake.limits import Limits
from dinotrain.intake.refused import Refused, Why

_SCHEME = re.compile(r"\s*(?P<name>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether it is meant as a URL, of whatever kind."""
    return _SCHEME.match(text[:64]) is not None


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Reads images that are given as text.

    Args:
        limits: of each.
        fetcher: of URLs; None for taking none.
    """

    limits: Limits
    fetcher: Fetcher | None = None

    def read(self, text: str) -> bytes:
        """The bytes of an image.

        Raises:
            Refused: with the reason.
        """
        if not is_url(text):
            return from_base64(text, self.limits)
        if self.fetcher is None:
            raise Refused("a URL; expected the image itself, in base64: URLs are not taken here", Why.NOT_ALLOWED)
        return self.fetcher.fetch(text.strip(), self.limits)
