"""The checkpoints in a folder, and what each says of itself."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step_(\d+)")


def read_manifest(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        ValueError: if it can't be read.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] == FORMAT:
            return manifest
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({MANIFEST}: {error}): remove that folder to go on from the one before"
        ) from error
    raise ValueError(f"checkpoint {path} has format {manifest['format']}, expected {FORMAT}: another version wrote it")


def complete_checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name) and (path / MANIFEST).exists()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """The number of updates that the checkpoint in `path` holds."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not a checkpoint: expected a folder named step_<number>")
    return int(match.group(1))


def checksum(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file, as the manifest lists them."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"bytes": size, "crc32": crc}
