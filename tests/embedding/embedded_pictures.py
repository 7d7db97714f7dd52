"""Features of small pictures, some of which can't be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny

from dinotrain.data.broken import BrokenImage
from dinotrain.data.source import Source
from dinotrain.distributed.world import World
from dinotrain.embedding.collected import Collected
from dinotrain.embedding.content import TOKENS, columns_of
from dinotrain.embedding.extraction import extract_pieces
from dinotrain.embedding.parts import Parts
from dinotrain.embedding.plan import Plan
from dinotrain.embedding.tokens import token_function
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.features import Preparation

PREPARATION = Preparation(size=16, crop_fraction=0.8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
COUNT = 23
BROKEN = (3, 4, 22)
COLUMNS = columns_of(TOKENS, (1, 2), dim=tiny.DIM, patches=16)


class Pictures(Source):
    """Noise of two classes."""

    classes = ("class0", "class1")

    def __init__(self) -> None:
        self.labels = np.arange(COUNT) % 2

    def __len__(self) -> int:
        return COUNT

    def read(self, index: int) -> np.ndarray:
        if index in BROKEN:
            raise BrokenImage("broken on purpose")
        return np.random.default_rng(index).integers(0, 256, (18, 24, 3), dtype=np.uint8)

    def name(self, index: int) -> str:
        return f"pictures/{index:04d}"

    def fingerprint(self) -> str:
        return f"pictures:{COUNT}"


def backbone() -> Backbone:
    return Backbone(tiny.backbone(num_registers=2), PREPARATION)


def pictures() -> Pictures:
    return Pictures()


def extract(folder: Path, world: World, batch: int = 4) -> Parts:
    """All that is missing in a folder."""
    parts = Parts(folder, Plan(COUNT, batch, 1))
    folder.mkdir(exist_ok=True)
    extract_pieces(
        token_function(backbone(), COLUMNS),
        pictures(),
        parts,
        preparation=PREPARATION,
        world=world,
        dtype=np.dtype("float32"),
        threads=1,
    )
    return parts


def collected(folder: Path, world: World) -> Collected:
    return Collected(extract(folder, world), pictures(), COLUMNS, np.dtype("float32"))
