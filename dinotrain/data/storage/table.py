"""Arrays that were costly to make, kept in the user's cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import numpy as np

from dinotrain.data.progress import progress

_MAGIC = b"dinotrain arrays 1\n"
_ALIGNMENT = 64
_POLL_SECONDS = 0.05
_SUFFIX = ".arrays"
_KEPT = 3
"""Files of an entry that stay: runs on other machines may have mapped those before the last."""
_MAX_AGE_SECONDS = 90 * 24 * 3600
"""How long a file stays that nobody opens."""

Arrays = dict[str, np.ndarray]


def cached(kind: str, key: str, build: Callable[[], Arrays], valid: Callable[[Arrays], bool]) -> Arrays:
    """What `build` returned the last time, as long as that is valid; otherwise what it returns now.

    The arrays lie in one file below `cache_folder()`, mapped read-only: the processes of a machine share its pages.
    Of several processes that find nothing valid one builds, the others wait and take over what it made. A damaged
    file counts as none. Where the folder can't be written to, a warning says so and the arrays are this process's.

    Args:
        kind: sort of the entry, a word.
        key: what the entry is about: all that the arrays depend on but for what `valid` looks at, and the version of
            their layout.
        build: makes the arrays, of numbers or truth values, with one or more dimensions (strings:
            `PathTable.for_cache`).
        valid: whether stored arrays still hold.
    """
    folder = os.path.join(cache_folder(), kind, hashlib.sha256(os.fsencode(key)).hexdigest()[:32])
    stored = _stored(folder)
    if (found := _load(stored, valid)) is not None:
        return found
    with _alone(folder):
        if _stored(folder) != stored and (found := _load(_stored(folder), valid)) is not None:
            return found
        arrays = build()
        try:
            path = _store(folder, arrays)
        except OSError as error:
            warnings.warn(
                f"can't keep the listing of the images in {folder} ({error.strerror}): it will be made anew at every "
                "start; the environment variable DINOTRAIN_CACHE can name another folder",
                stacklevel=2,
            )
            return arrays
    return _open(path) or arrays


def cache_folder() -> str:
    """$DINOTRAIN_CACHE, else $XDG_CACHE_HOME/dinotrain, else ~/.cache/dinotrain."""
    if own := os.environ.get("DINOTRAIN_CACHE"):
        return os.path.abspath(os.path.expanduser(own))
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dinotrain")


def _stored(folder: str) -> list[str]:
    """The files of an entry, the last one first."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(_SUFFIX)]
    except OSError:
        return []
    return [os.path.join(folder, name) for name in sorted(names, reverse=True)]


def _load(stored: Sequence[str], valid: Callable[[Arrays], bool]) -> Arrays | None:
    """What the last of the files holds, if that is valid."""
    if not stored or (arrays := _open(stored[0])) is None:
        return None
    try:
        if not valid(arrays):
            return None
    except (KeyError, IndexError, ValueError):  # not what is looked for: damaged, or of another version
        return None
    with suppress(OSError):
        os.utime(stored[0])
    return arrays


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Lets one process at a time work on an entry, where the file system can do that."""
    with ExitStack() as stack:
        with suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            lock = stack.enter_context(open(os.path.join(folder, "lock"), "ab"))
            with progress("Waiting for another process that lists the images", unit="s") as report:
                start = time.monotonic()
                while not _locked(lock.fileno()):
                    time.sleep(_POLL_SECONDS)
                    report(int(time.monotonic() - start))
        yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _store(folder: str, arrays: Arrays) -> str:
    """Puts the arrays into a new file of the folder, all or nothing; returns its path."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    parts, place = {}, 0
    for name, array in plain.items():
        parts[name] = (array.dtype.str, array.shape, place)
        place += _aligned(array.nbytes)
    line = _MAGIC + json.dumps({"arrays": parts, "bytes": place}).encode() + b"\n"
    stored = _stored(folder)
    _remove(stored[_KEPT - 1 :])
    _remove(_unused(os.path.dirname(folder)))
    file, draft = tempfile.mkstemp(suffix=".part", dir=folder)
    try:
        with open(file, "wb") as out:
            out.write(line.ljust(_aligned(len(line)), b"\0"))
            for array in plain.values():
                out.write(array.tobytes() if array.nbytes < _ALIGNMENT else array.data)
                out.write(bytes(-array.nbytes % _ALIGNMENT))
            out.flush()
            os.fsync(out.fileno())
        last = os.path.basename(stored[0]).removesuffix(_SUFFIX) if stored else "0"
        path = os.path.join(folder, f"{int(last) + 1:08d}{_SUFFIX}")
        os.replace(draft, path)
    except BaseException:
        _remove([draft])
        raise
    return path


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _open(path: str) -> Arrays | None:
    """The arrays of a file, mapped; None where it is damaged."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            line = file.readline()
            head = json.loads(line)
            start = _aligned(len(_MAGIC) + len(line))
            if os.fstat(file.fileno()).st_size != start + head["bytes"]:
                return None
            # Read here at once, the pages count as shared in the workers, which see few of them at a time.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            data = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
        return {
            name: np.frombuffer(data, dtype, int(np.prod(shape)), start + place).reshape(shape)
            for name, (dtype, shape, place) in head["arrays"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _unused(folder: str) -> Iterator[str]:
    """Files at any depth that nobody opened for long, and what killed processes left."""
    oldest = time.time() - _MAX_AGE_SECONDS
    for path in (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names):
        with suppress(OSError):
            if os.stat(path).st_mtime < oldest:
                yield path


def _remove(files: Iterable[str]) -> None:
    for path in files:
        with suppress(OSError):
            os.unlink(path)
