"""What differs between the parameters that are wanted and the tensors that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dinotrain.weights.shapes import Shapes

MOST_GROUPS = 6


@dataclass(frozen=True)
class Mismatch:
    """Names that are only wanted, only there, or there with another shape; false if all fits."""

    missing: Shapes
    unexpected: Shapes
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """What is there, what is wanted."""

    @classmethod
    def between(cls, wanted: Shapes, found: Shapes) -> Mismatch:
        """Compare."""
        return cls(
            {name: shape for name, shape in wanted.items() if name not in found},
            {name: shape for name, shape in found.items() if name not in wanted},
            {name: (found[name], shape) for name, shape in wanted.items() if found.get(name, shape) != shape},
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def words(self) -> str:
        """One line; tensors that differ in the number of their block alone are one."""
        shapes = (f"{name} {list(got)} instead of {list(wanted)}" for name, (got, wanted) in self.misshapen.items())
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "other shapes": shapes}
        listed = {kind: _grouped(names) for kind, names in kinds.items()}
        return "; ".join(f"{kind}: {names}" for kind, names in listed.items() if names)


def _grouped(names: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        group = re.sub(r"blocks\.\d+\.", "blocks.*.", name)
        counts[group] = counts.get(group, 0) + 1
    shown = [f"{group} (x{count})" if count > 1 else group for group, count in counts.items()]
    more = [f"and {len(shown) - MOST_GROUPS} more"] * (len(shown) > MOST_GROUPS)
    return ", ".join(shown[:MOST_GROUPS] + more)
