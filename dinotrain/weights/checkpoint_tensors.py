"""Tensors in a checkpoint of torch's distributed format, read one at a time and without other processes."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from dinotrain.errors import UserError

METADATA = ".metadata"
_RECORDS = ("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata")
_RECORDS += ("TensorProperties", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")
_ALLOWED = {
    *(f"torch.distributed.checkpoint.metadata.{name}" for name in _RECORDS),
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    "torch.Size",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "collections.OrderedDict",
}


class _Unpickler(pickle.Unpickler):
    """Makes the records that describe a checkpoint, and nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        path = f"{module_name}.{global_name}"
        number_format = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if path in _ALLOWED or number_format:
            return super().find_class(module_name, global_name)
        if path == "builtins.getattr":
            return _member
        raise UserError(f"refused: {METADATA} wants to run {path} while being read; expected a plain checkpoint")


def _member(holder: Any, name: Any) -> Enum:
    """A member of an enumeration: early versions of Python 3.11 store it as a call of getattr."""
    if isinstance(holder, type) and issubclass(holder, Enum) and isinstance(name, str) and name in holder.__members__:
        return holder[name]
    raise UserError(f"refused: {METADATA} wants to run builtins.getattr while being read; expected a plain checkpoint")


class _Reader(dcp.FileSystemReader):
    """Reads the description of a checkpoint once, and safely."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            with (folder / METADATA).open("rb") as file:
                self.description: Metadata = _Unpickler(file).load()
            assert isinstance(self.description, Metadata)
        except UserError:
            raise
        except Exception as error:  # damaged bytes fail in any way
            raise UserError(f"{METADATA} can't be read ({type(error).__name__}): it is damaged") from error

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.description


class CheckpointTensors(Mapping[str, Tensor]):
    """The tensors below one name in a checkpoint, by the rest of their names; each is read whenever it is asked for."""

    def __init__(self, folder: Path, prefix: str = "", reader: _Reader | None = None) -> None:
        self._reader = _Reader(folder) if reader is None else reader
        self._folder, self._prefix = folder, prefix
        self._entries = {
            name.removeprefix(prefix): entry
            for name, entry in self._reader.description.state_dict_metadata.items()
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }

    def below(self, prefix: str) -> CheckpointTensors:
        """Those whose names begin with `prefix`, which is left out."""
        return CheckpointTensors(self._folder, self._prefix + prefix, self._reader)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors."""
        return {name: tuple(entry.size) for name, entry in self._entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype, device="cpu")
        whole = self._prefix + name
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            try:
                dcp.load({whole: tensor}, storage_reader=self._reader, no_dist=True)
            except (CheckpointException, OSError) as error:
                raise UserError(f"{self._folder}: {whole} can't be read any more: has it been removed?") from error
        return tensor
