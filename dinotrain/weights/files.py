"""Files of tensors: told apart by their content, read without running anything that is in them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinotrain.errors import UserError

EXPECTED = "expected a file of plain tensors (save it with torch.save(model.state_dict(), ...))"
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where a Hugging Face folder keeps its tensors, best first."""

_ZIP, _PICKLE, _LFS = b"PK\x03\x04", b"\x80", b"version https://git-lfs"
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin."""
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Stored:
    """What a file holds: nested mappings that end in tensors and other values, and words about them."""

    tree: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_file(path: Path) -> Stored:
    """The content of a file of torch.save or safetensors, or of all files that an index names.

    Tensors are on the CPU and, but for files of torch before 1.6, mapped: nothing is read before it is used.

    Raises:
        UserError: in one line without the path, if there is nothing to be read here, or not safely.
    """
    head = _beginning(path)
    # A length may happen to look like text.
    if not _is_safetensors(head) and head.lstrip().startswith(b"{"):
        return Stored(_read_shards(path))
    return _read_one(path, head)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder.

    Raises:
        UserError: as `read_file`.
    """
    for name in FOLDER_FILES:
        if (folder / name).exists():
            try:
                return _flat(read_file(folder / name).tree)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
    raise UserError(f"config.json without weights: expected one of {', '.join(FOLDER_FILES)} beside it")


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"can't be opened ({error.strerror})") from error
    if not head:
        raise UserError("the file is empty")
    return head


def _is_safetensors(head: bytes) -> bool:
    """Whether it begins with a header's length (below 4 GiB) in eight bytes, then the header, as JSON."""
    return head[4:9] == b"\0\0\0\0{"


def _read_one(path: Path, head: bytes) -> Stored:
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(_LFS):
        raise UserError("a Git LFS pointer, not the weights themselves; fetch them with 'git lfs pull'")
    if head.lstrip().lower().startswith(_WEB_PAGE):
        raise UserError("a web page, not weights; download the file itself")
    if head.startswith(_ZIP):
        _check_archive(path)
        return Stored(_torch_load(path, mmap=True))
    if head.startswith(_OLD_TORCH):
        return Stored(_torch_load(path, mmap=False))
    if head.startswith(_PICKLE):
        raise UserError(f"refused: a pickle of Python objects, which may run code while being read; {EXPECTED}")
    raise UserError("not a kind of file that is known here; expected .pth, .pt or .bin of torch.save, or .safetensors")


def _check_archive(path: Path) -> None:
    """Compare the checksums of an archive: mapped tensors are not checked when they are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            last = {record.filename.rpartition("/")[2] for record in records}
            if "constants.pkl" in last:
                raise UserError(f"refused: a TorchScript program, which is code; {EXPECTED}")
            if "data.pkl" not in last:
                raise UserError(f"a zip archive, but not one of torch.save; {EXPECTED}")
            for record in records:
                if record.CRC:  # else saved without
                    with archive.open(record) as file:
                        while file.read(_CHUNK):
                            pass
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
        raise _damaged(error) from error


def _torch_load(path: Path, *, mmap: bool) -> Any:
    # Full checkpoints of DINO hold the command line as a Namespace, which has no code of its own.
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")
        try:
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:
            wanted = re.search(r"GLOBAL (\S+)", str(error))
            if wanted is None:  # torch's own words are about something else
                raise _damaged(ValueError("not the pickle of plain tensors")) from error
            name = wanted[1].rstrip(".,")
            raise UserError(f"refused: it wants to run {name} while being read; {EXPECTED}") from error
        except Exception as error:  # damaged bytes fail in any way
            raise _damaged(error) from error


def _damaged(error: BaseException) -> UserError:
    reason = str(error).strip().splitlines() or [""]
    return UserError(f"can't be read: cut off, damaged or of another kind ({type(error).__name__}: {reason[0][:120]})")


def _read_safetensors(path: Path) -> Stored:
    try:
        with safe_open(path, "pt", device="cpu") as file:
            return Stored({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(error) from error


def _read_shards(path: Path) -> dict[str, Tensor]:
    try:
        shard_of = dict(json.loads(path.read_text())["weight_map"])
        shards = sorted(set(shard_of.values()))
        outside = [name for name in shards if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError("a JSON file, but not the index of weights in several files (no weight_map)") from error
    absent = [name for name in shards if name in outside or not (path.parent / name).is_file()]
    if absent:
        raise UserError(f"{absent[0]} is missing beside the index, which names {len(shards)} files")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        try:
            file = path.parent / shard
            found = _flat(_read_one(file, _beginning(file)).tree)
        except UserError as error:
            raise UserError(f"{shard}: {error}") from error
        names = [name for name, place in shard_of.items() if place == shard]
        lacking = [name for name in names if name not in found]
        if lacking:
            raise UserError(f"{shard}: no tensor {lacking[0]}, which the index promises there")
        tensors |= {name: found[name] for name in names}
    return tensors


def _flat(tree: Any) -> dict[str, Tensor]:
    if not isinstance(tree, Mapping) or not all(isinstance(value, Tensor) for value in tree.values()):
        raise UserError("expected tensors by name and nothing else")
    return {str(name): value.detach() for name, value in tree.items()}
