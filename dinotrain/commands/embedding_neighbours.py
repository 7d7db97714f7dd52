"""The images of a file of features that are most like given ones: printed, and as a contact sheet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode, read_file
from dinotrain.data.paths import printable
from dinotrain.data.source import Source
from dinotrain.embedding.output import Output
from dinotrain.embedding.parts import writing
from dinotrain.embedding.search import nearest_in
from dinotrain.embedding.tokens import token_function
from dinotrain.errors import UserError
from dinotrain.evaluation.backbone import Backbone
from dinotrain.evaluation.pictures import save_picture
from dinotrain.evaluation.tiles import GREY, ORANGE, sheet, tile, tile_of


class Query(NamedTuple):
    """An image that neighbours are sought of."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]


def read_queries(paths: Sequence[str]) -> list[Query]:
    """Read the images.

    Raises:
        UserError: for the first that can't be read.
    """
    found = []
    for path in paths:
        name = printable(os.fsencode(path))
        try:
            found.append(Query(name, decode(read_file(os.fsencode(Path(path).expanduser())))))
        except BrokenImage as error:
            raise UserError(f"neighbours: {name}: {error.reason}; expected an image file") from error
    return found


def show_neighbours(queries: Sequence[Query], backbone: Backbone, output: Output, source: Source, k: int) -> Path:
    """Print the neighbours of each query and their cosine similarity; returns the path of the sheet.

    Raises:
        UserError: if the features can't be read, or the sheet can't be written.
    """
    column = next(column for column in output.columns if column.pooled)
    function = token_function(backbone, (column,))
    pixels = [backbone.preparation.pixels(query.image) for query in queries]
    own = torch.cat([function(one.unsqueeze(0))[column.name] for one in pixels]).cpu()
    found = nearest_in(output.blocks(column), own, k)
    # Rows are the images that could be read.
    indices = np.delete(np.arange(len(source)), output.record["skipped"])
    rows = []
    for query, similarity, row in zip(queries, found.similarity.tolist(), found.index.tolist()):
        near = [int(indices[number]) for number in row]
        print(f"\nnearest to {query.name} ({column.name}, cosine similarity):")
        for value, index in zip(similarity, near):
            print(f"  {value:7.4f}  {source.name(index)}")
        rows.append([tile(query.image, ORANGE), *(tile_of(source, index, GREY) for index in near)])
    path = output.beside(f"neighbours_{_plain(queries)}.png")
    with writing(path):
        save_picture(sheet(rows, apart=True, names=[Path(query.name).name for query in queries]), path)
    print(f"\ncontact sheet: {path}", flush=True)
    return path


def _plain(queries: Sequence[Query]) -> str:
    """A part of a file name that tells what was sought."""
    stem = re.sub(r"[^\w.-]+", "_", Path(queries[0].name).stem)[:60]
    return stem if len(queries) == 1 else f"{stem}_and_{len(queries) - 1}_more"
