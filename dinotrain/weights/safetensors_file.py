"""Writing a safetensors file: complete or not at all, readable by whoever may read the folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors in the types they have, from whichever device."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, partial, metadata)
        # The library makes files that only their owner can read, whatever the user's mask says.
        mask = os.umask(0)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
