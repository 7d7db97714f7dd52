"""Images and the files that belong to them, one to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import NamedTuple

from dinotrain.data.images import EXTENSIONS
from dinotrain.data.paths import PathTable, printable
from dinotrain.data.sources.tree import find_images
from dinotrain.data.storage.remote import is_remote, shown
from dinotrain.errors import UserError

_IMAGES = tuple(os.fsencode(extension) for extension in EXTENSIONS)
_THREADS = 16  # on network file systems each request waits long for its answer
_SPLITS = {"train": (b"train", b"training"), "test": (b"val", b"valid", b"validation", b"test", b"testing")}


class Pairs(NamedTuple):
    """Files below a root: a target (mask or depth) of each image."""

    images: PathTable
    targets: PathTable


class Split(NamedTuple):
    """Folders of the images and of the targets of a split."""

    images: bytes
    targets: bytes


def existing_folder(root: str | PathLike[str], holds: str) -> bytes:
    """The root as an absolute path.

    Raises:
        UserError: it is no folder on a local disk; `holds` says what was expected in it.
    """
    if isinstance(root, str) and is_remote(root):
        raise UserError(f"data.root: {shown(root)} is a URL, expected a folder on a local disk with {holds}")
    path = os.path.abspath(os.path.expanduser(os.fsencode(root)))
    if not os.path.isdir(path):
        state = "is a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"data.root: {printable(path)} {state}, expected a folder with {holds}")
    return path


def find_splits(root: bytes, images: str, targets: str, what: str) -> dict[str, Split]:
    """The folders of the splits: "train", and "test" where there is one.

    With images `images` and targets `masks` these are ROOT/train/images and ROOT/train/masks, or ROOT/images/train and
    ROOT/masks/train, and likewise val (valid, validation, test, testing); or ROOT/images and ROOT/masks.

    Raises:
        UserError: a folder is missing; `what` names the targets ("masks").
    """
    names = os.fsencode(images), os.fsencode(targets)
    for inner in (True, False):
        found = {}
        for split, choices in _SPLITS.items():
            for choice in choices:
                parts = ((choice, name) if inner else (name, choice) for name in names)
                folders = Split(*(os.path.join(root, *pair) for pair in parts))
                if split not in found and os.path.isdir(folders.images):
                    found[split] = _checked(folders, what)
        if "train" in found:
            return found
    whole = Split(*(os.path.join(root, name) for name in names))
    if not os.path.isdir(whole.images):
        raise UserError(
            f"data.root: {printable(root)} has no folder {images}; expected {images} and {targets} in it, or in its "
            f"folders train and val (data.images and data.{what} give other names)"
        )
    return {"train": _checked(whole, what)}


def _checked(split: Split, what: str) -> Split:
    if not os.path.isdir(split.targets):
        raise UserError(
            f"data.root: there is no folder {printable(split.targets)}, expected the {what} of the images in "
            f"{printable(split.images)} (data.{what} gives another name)"
        )
    return split


def pair_folders(
    root: bytes,
    split: Split,
    what: str,
    *,
    endings: Sequence[bytes],
    of_image: Callable[[bytes], bytes | None] | None = None,
    of_target: Callable[[bytes], bytes | None] | None = None,
) -> Pairs:
    """The images of a folder, at any depth, each with the target in the other folder that has the same key.

    Args:
        root: what the returned paths are relative to.
        split: the two folders.
        what: name of a target, "mask" or "depth file".
        endings: of the target files' names, in lower case; of targets with one key that with the first is taken.
        of_image: key of an image by its path below its folder, None for a file that is not meant; by default the path
            without its ending.
        of_target: the same for targets.

    Raises:
        UserError: no image, an image without a target, or two images that share one.
    """
    images = _keyed(split.images, _IMAGES, of_image or _stem)
    targets: dict[bytes, bytes] = {}
    found = _keyed(split.targets, endings, of_target or _stem)
    for key, path in sorted(found, key=lambda pair: _rank(pair[1], endings)):
        targets.setdefault(key, path)
    if not images:
        raise UserError(f"data.root: no images in {printable(split.images)}")
    _refuse_missing([path for key, path in images if key not in targets], len(images), split, what)
    keys = dict[bytes, bytes]()
    for key, path in images:
        if (first := keys.setdefault(key, path)) != path:
            raise UserError(
                f"data.root: {printable(first)} and {printable(path)} in {printable(split.images)} have one {what}, "
                f"{printable(targets[key])}; expected one image for each"
            )
    above = [os.path.join(os.path.relpath(folder, root), b"").removeprefix(b"./") for folder in split]
    return Pairs(
        PathTable(above[0] + path for _, path in images), PathTable(above[1] + targets[key] for key, _ in images)
    )


def _keyed(folder: bytes, endings: Sequence[bytes], key: Callable[[bytes], bytes | None]) -> list[tuple[bytes, bytes]]:
    paths = find_images(folder, endings).paths
    return [(name, path) for path in paths if (name := key(path)) is not None]


def _stem(path: bytes) -> bytes:
    return os.path.splitext(path)[0]


def _rank(path: bytes, endings: Sequence[bytes]) -> int:
    name = path.lower()
    return next(rank for rank, ending in enumerate(endings) if name.endswith(ending))


def _refuse_missing(missing: Sequence[bytes], count: int, split: Split, what: str) -> None:
    if missing:
        raise UserError(
            f"data.root: {len(missing)} of the {count} images in {printable(split.images)} have no {what} in "
            f"{printable(split.targets)}; the first is {printable(missing[0])}"
        )


def pair_list(root: bytes, pairs: Iterable[tuple[bytes, bytes]], place: str) -> Pairs:
    """Pairs of paths relative to the root, from a list that is named `place` in messages.

    Raises:
        UserError: there are none, or a file does not exist.
    """
    listed = list(pairs)
    if not listed:
        raise UserError(f"data.root: no images in {place}")
    missing = list(_absent(root, (path for pair in listed for path in pair)))
    if missing:
        raise UserError(
            f"data.root: {len(missing)} of the {2 * len(listed)} files named in {place} are missing; the first is "
            f"{printable(os.path.join(root, missing[0]))}"
        )
    return Pairs(*(PathTable(column) for column in zip(*listed, strict=True)))


def _absent(root: bytes, paths: Iterable[bytes]) -> Iterator[bytes]:
    listed = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        there = pool.map(lambda path: os.path.isfile(os.path.join(root, path)), listed, chunksize=256)
        yield from (path for path, found in zip(listed, there, strict=True) if not found)
