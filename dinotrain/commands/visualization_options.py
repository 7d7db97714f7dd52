"""The keys of configs/visualize.yaml as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinotrain.commands.backbone_request import BackboneRequest, is_whole
from dinotrain.errors import UserError
from dinotrain.visualizing.colors import Foreground


@dataclass(frozen=True, kw_only=True)
class VisualizationRequest(BackboneRequest):
    """What is shown of what, and how; `configs/visualize.yaml` says what each key is for.

    Raises:
        UserError: with the key, what was got, and what is expected.
    """

    out: str
    limit: int = 12
    square: bool = False
    foreground: bool | str = False
    patch: Sequence[int] | None = None
    bank: str | None = None
    k: int = 5
    batch: int = 64
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_computing()
        for key in ("out", "bank"):
            got = getattr(self, key)
            if (got is not None or key == "out") and (not isinstance(got, str) or not got.strip()):
                raise UserError(f"{key}: got {got!r}, expected a path")
        for key, least in (("limit", 1), ("k", 0), ("batch", 1)):
            self._whole(key, least)
        self._one_of("square", (True, False))
        self._one_of("foreground", (True, False, "other"))
        patch = self.patch
        pair = isinstance(patch, list | tuple) and len(patch) == 2 and all(is_whole(number, 0) for number in patch)
        if patch is not None and not pair:
            raise UserError(f"patch: got {patch!r}, expected [image, patch], both counted from 0")

    @property
    def folder(self) -> Path:
        return Path(self.out).expanduser()

    @property
    def shown(self) -> Foreground:
        """Which patches have colours."""
        return "other" if isinstance(self.foreground, str) else "foreground" if self.foreground else "all"
