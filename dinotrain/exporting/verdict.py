"""Whether an export answers as what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dinotrain.exporting.comparison import Difference


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found when an export was read back.

    Args:
        library: that read it, with its version.
        found: all differences.
        limit: the largest relative one that counts as rounding.
        differs: in what the library itself differs off the native resolution, where the limit is not held then.
        size: px of the images it is meant for.
    """

    library: str
    found: Sequence[Difference]
    limit: float
    differs: str | None
    size: int

    @property
    def worst(self) -> Difference:
        """The largest difference of those that the limit is for."""
        return max((each for each in self.found if each.native or not self.differs), key=lambda each: each.value)

    @property
    def elsewhere(self) -> Difference | None:
        """The largest difference that the limit is not for."""
        others = [each for each in self.found if self.differs and not each.native]
        return max(others, key=lambda each: each.value, default=None)

    @property
    def right(self) -> bool:
        """Whether the limit is kept."""
        return self.worst.value <= self.limit

    def words(self) -> list[str]:
        """For people, in two lines at most."""
        worst, elsewhere = self.worst, self.elsewhere
        sizes = list(dict.fromkeys(each.images for each in self.found if each.native or not self.differs))
        lines = [
            f"read back by {self.library}: largest difference {worst.value:.1e} of the largest value ({worst.name}), "
            f"limit {self.limit:.0e}; images {', '.join(sizes)}"
        ]
        if elsewhere is not None:
            remedy = f"image_size={self.size} stores positions that are exact at {self.size} px"
            if self.worst.height == self.size:
                remedy = f"{self.size} px, which it is meant for, is exact"
            lines.append(f"at {elsewhere.images}: {elsewhere.value:.1e}, because {self.differs}; {remedy}")
        return lines
