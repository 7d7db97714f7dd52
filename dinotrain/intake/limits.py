"""How large an image may be."""

from __future__ import annotations

from dataclasses import dataclass

from dinotrain.data.arguments import number


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large an image may be.

    Args:
        max_mb: of its file, in millions of bytes.
        max_megapixels: of its width times its height, which its header says, in millions.

    Raises:
        ValueError: for a limit that is not above 0.
    """

    max_mb: float = 20.0
    max_megapixels: float = 50.0

    def __post_init__(self) -> None:
        for name in ("max_mb", "max_megapixels"):
            number(name, getattr(self, name), 1e-3)

    @property
    def bytes(self) -> int:
        """Most of a file."""
        return int(self.max_mb * 10**6)

    @property
    def pixels(self) -> int:
        """Most of a picture."""
        return int(self.max_megapixels * 10**6)
