"""What a conversion leaves beside its shards, for people to look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode
from dinotrain.data.source import Source
from dinotrain.errors import UserError
from dinotrain.preparing.contact_sheet import SAMPLES, Tile, contact_sheet, sample_places
from dinotrain.preparing.output import Output
from dinotrain.preparing.record import ShardRecord
from dinotrain.preparing.summary import Summary

FAILED, DUPLICATES, SHEET = "failed.txt", "duplicates.txt", "contact_sheet.jpg"


def close(source: Source, output: Output, *, labels: bool, origin: dict[str, Any]) -> dict[str, Any]:
    """Write lists, contact sheet and summary of complete shards; returns the summary.

    Args:
        source: what was converted.
        output: where the shards are.
        labels: whether class numbers were written.
        origin: what the summary says of the source.

    Raises:
        UserError: no image was left to keep, or the disk is full.
    """
    try:
        write_lists(source, output)
        numbers = Summary(source, labels=labels)
        for record in output.records():
            numbers.add(record)
        summary = {"source": origin, **numbers.to_dict()}
        if not summary["counts"]["kept"]:
            looked_at = summary["counts"]["looked_at"]
            raise UserError(f"none of {looked_at:,} images can be read; {output.folder / FAILED} has the reasons")
        tiles = list(_tiles(source, output, summary["counts"]["kept"], labels))
        sheet = contact_sheet(tiles, output.folder.resolve().name, facts(summary))
        sheet.save(output.folder / SHEET, quality=90)
        output.finish(summary)
    except OSError as error:
        raise UserError(f"out: can't write to {output.folder} ({error.strerror}); the shards are complete") from error
    return summary


def facts(summary: dict[str, Any]) -> list[str]:
    """The heading of the contact sheet: how many images, shards, bytes and classes."""
    counts, shards = summary["counts"], len(summary["shards"])
    parts = [f"{counts['kept']:,} images", f"{shards:,} shard{'s' * (shards > 1)}", size(summary["bytes"]["shards"])]
    parts += [f"{len(summary['classes']):,} classes"] if summary["classes"] else []
    return parts


def size(number: float) -> str:
    """Bytes in the unit that suits."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def write_lists(source: Source, output: Output) -> None:
    """`failed.txt` (name, reason) and `duplicates.txt` (dropped, kept, distance in bits), separated by tabs."""
    with (
        open(output.folder / FAILED, "w", encoding="utf-8", errors="backslashreplace") as failed,
        open(output.folder / DUPLICATES, "w", encoding="utf-8", errors="backslashreplace") as duplicates,
    ):
        failed.writelines(f"{name}\t{_line(reason)}\n" for name, reason in source.left_out)
        for record in output.records():
            failed.writelines(f"{source.name(index)}\t{_line(reason)}\n" for index, reason in record.failures)
            for index, kept, distance, _ in record.duplicates.tolist():
                duplicates.write(f"{source.name(index)}\t{source.name(kept)}\t{distance}\n")


def _line(text: str) -> str:
    return " ".join(text.split())


def _tiles(source: Source, output: Output, kept: int, labels: bool) -> Iterator[Tile]:
    """Some images as they are in the shards, evenly spread over them."""
    places = sample_places(kept, SAMPLES)
    first = 0
    for number, record in enumerate(output.records()):
        for place in places:
            if first <= place < first + len(record.images):
                yield _tile(source, output, number, record, place - first, labels)
        first += len(record.images)


def _tile(source: Source, output: Output, number: int, record: ShardRecord, row: int, labels: bool) -> Tile:
    image = record.images[row]
    index = int(image["index"])
    with open(output.path(number), "rb") as tar:
        tar.seek(int(image["offset"]))
        data = tar.read(int(image["bytes"]))
    try:
        pixels = decode(data)
    except BrokenImage:  # of those that were not verified
        pixels = np.full((1, 1, 3), 255, np.uint8)
    name = source.name(index).rsplit("/", 1)[-1]
    if labels and source.labels is not None and source.labels[index] >= 0:
        label = int(source.labels[index])
        name = source.classes[label] if source.classes is not None else f"class {label}"
    sizes = [f"{width} x {height}" for width, height in (image["size_in"], image["size_out"])]
    return Tile(pixels, name, sizes[0] if sizes[0] == sizes[1] else " → ".join(sizes))
