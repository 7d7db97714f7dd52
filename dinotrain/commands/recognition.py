"""What kind of source a path is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path

from dinotrain.errors import UserError

_FILES = {
    ".tar": "shards",
    ".parquet": "parquet",
    ".txt": "list",
    ".csv": "list",
    ".tsv": "list",
    ".npz": "arrays",
    ".npy": "arrays",
}
_REMOTE = {"shards", "parquet", "list"}
_SAVED_BY_DATASETS = ({"dataset_info.json", "state.json"}, {"dataset_dict.json"})
_ASSIGNMENT = re.compile(r"[~+]*[\w.@-]+=|~")


def overrides_of(words: Sequence[str]) -> list[str]:
    """Overrides of the configuration from what was typed: a path or URL among them becomes `data` and `data.root`.

    Raises:
        UserError: an unknown option, two paths, or a path that can't be recognised.
    """
    paths = [word for word in words if not _ASSIGNMENT.match(word)]
    for path in paths:
        if path.startswith("-"):
            raise UserError(f"{path}: no such option; keys are given as key=value, --help lists them")
    if len(paths) > 1:
        raise UserError(f"{paths[1]}: a second source; expected one, and then key=value")
    overrides = [word for word in words if word not in paths]
    if not paths:
        return overrides
    given = [word for word in overrides if re.match(r"\+*data(\.root)?=", word)]
    if given:
        raise UserError(f"{given[0]}: the source {paths[0]} is given as well; expected one of them")
    root = paths[0].removeprefix("file://")
    return [f"data={recognise(root)}", f"data.root={quoted(root)}", *overrides]


def quoted(text: str) -> str:
    """A value as Hydra reads it back, whatever characters are in it."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def recognise(root: str) -> str:
    """Name of the group `data` for a path, a pattern or a URL.

    Raises:
        UserError: nothing is there, or it can't be told what it is.
    """
    if "://" in root:
        kind = _FILES.get(os.path.splitext(re.split(r"[?#]", root)[0])[1].lower())
        if kind not in _REMOTE:
            raise _unknown(root, "expected a URL that ends in .tar, .parquet, .txt or .csv")
        return kind
    path = Path(root).expanduser()
    if path.is_dir():
        return _folder(path)
    kind = _FILES.get(path.suffix.lower())
    if not path.exists() and not (kind and (has_magic(root) or "{" in root)):
        raise UserError(f"{root} does not exist; expected a folder, file or URL of images, --help says which")
    if kind is None:
        raise _unknown(root, f"expected a folder, or a file that ends in {', '.join(_FILES)}")
    return kind


def _folder(path: Path) -> str:
    """By the files on the first level, from the top, that has any of a known kind."""
    top = _names(path)
    if any(needed <= top for needed in _SAVED_BY_DATASETS):
        return "hf"
    for level in (top, set().union(*(_names(path / name) for name in sorted(top)))):
        endings = {os.path.splitext(name)[1].lower() for name in level}
        kinds = sorted(endings & {".tar", ".parquet"})
        if len(kinds) > 1:
            raise _unknown(str(path), "both .tar and .parquet files are there")
        if kinds:
            return _FILES[kinds[0]]
    return "folder"


def _names(folder: Path) -> set[str]:
    """Names in a folder; none where there is no folder, or one that can't be read."""
    try:
        return {entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")}
    except OSError:
        return set()


def _unknown(root: str, why: str) -> UserError:
    return UserError(f"{root}: can't tell what it is ({why}); name it as in data=NAME data.root=...")
