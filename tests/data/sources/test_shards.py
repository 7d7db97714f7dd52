"""Tar shards, local and remote: what is found, read, left out and refused, and in which order it is trained on."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import os
import pickle
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_server import FileServer
from PIL import Image

from dinotrain.data.augment import Augment
from dinotrain.data.batch import Batch, Skipped
from dinotrain.data.broken import BrokenImage
from dinotrain.data.crops import MultiCrop
from dinotrain.data.loader import Loader
from dinotrain.data.paths import PathTable
from dinotrain.data.sources.shards import ShardSource
from dinotrain.data.sources.tar_index import TarIndex, scan_tar
from dinotrain.data.storage.remote import Storage
from dinotrain.errors import UserError

FORKED = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the indices."""
    monkeypatch.setenv("DINOTRAIN_CACHE", str(tmp_path / "cache folder"))
    return tmp_path / "cache folder"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for shards."""
    (tmp_path / "shards").mkdir()
    return tmp_path / "shards"


def _picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 18), (number % 256, number // 256, 0)).save(out, "PNG")
    return out.getvalue()


def _tar(numbers: Sequence[int], labels: Sequence[int] | None = None, names: Sequence[bytes] | None = None) -> bytes:
    """A shard of pictures that show their numbers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for place, number in enumerate(numbers):
            name = names[place].decode("utf-8", "surrogateescape") if names else f"{number:06d}"
            files = {"png": _picture(number)} | ({"cls": str(labels[place]).encode()} if labels else {})
            for extension, content in files.items():
                entry = tarfile.TarInfo(f"{name}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _three(labelled: bool = True) -> dict[str, bytes]:
    """Shards of 5, 3 and 4 samples, numbered from 0."""
    firsts = {"x-000000.tar": range(5), "x-000001.tar": range(5, 8), "x-000002.tar": range(8, 12)}
    return {name: _tar(numbers, [n % 3 for n in numbers] if labelled else None) for name, numbers in firsts.items()}


def _put(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).write_bytes(data)


def _shown(source: ShardSource) -> list[int]:
    """The numbers that the pictures show."""
    pixels = [source.image(index)[0, 0].astype(int) for index in range(len(source))]
    return [int(red + 256 * green) for red, green, _ in pixels]


def _names(source: ShardSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_a_folder(root: Path) -> None:
    _put(root, {**_three(), ".hidden.tar": b"", "notes.txt": b"x"})
    source = ShardSource(root=root)
    assert _shown(source) == list(range(12))
    assert _names(source)[4:6] == ["x-000000.tar/000004", "x-000001.tar/000005"]
    assert source.labels is not None
    assert source.labels.tolist() == [n % 3 for n in range(12)]
    assert source.classes == ("0", "1", "2")
    assert source.left_out == ()
    for index in (-1, 12):
        with pytest.raises(IndexError):
            source.read(index)


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("x-000001.tar", range(5, 8)),
        ("x-*2.tar", range(8, 12)),
        ("x-00000[01].tar", range(8)),
        ("x-{000000..000002}.tar", range(12)),
        ("x-00000{2,0}.tar", [*range(8, 12), *range(5)]),
        ("{x,y}-00000{0..1}.tar", [*range(8), *range(8)]),
    ],
)
def test_what_a_root_may_be(root: Path, pattern: str, numbers: Sequence[int]) -> None:
    files = _three()
    _put(root, files)
    if pattern.startswith("{x,y}"):
        _put(root, {name.replace("x", "y"): data for name, data in files.items()})
    assert _shown(ShardSource(root=f"{root}/{pattern}")) == list(numbers)
    assert _shown(ShardSource(root=f"file://{root}/{pattern}")) == list(numbers)


@pytest.mark.parametrize(
    ("train", "test", "others"),
    [
        ("train/x", "val/x", ["test/x"]),
        ("train/x", "validation/x", []),
        ("pictures-train-0", "pictures-validation-0", ["pictures-test-0"]),
        ("train-0", "test-0", []),
    ],
)
def test_splits(root: Path, train: str, test: str, others: list[str]) -> None:
    for number, name in enumerate([train, test, *others]):
        (root / name).parent.mkdir(exist_ok=True)
        _put(root, {f"{name}.tar": _tar([number, 10 + number], [0, 5 * number])})
    source = ShardSource(root=root)
    assert _shown(source) == [0, 10]
    held_out = source.test()
    assert held_out is not None
    assert _shown(held_out) == [1, 11]
    assert held_out.test() is None
    assert _shown(ShardSource(root=root, split="test")) == [1, 11]


def test_shards_without_splits(root: Path) -> None:
    _put(root, {"contest-0.tar": _tar([0]), "test-1.tar": _tar([1]), "x.tar": _tar([2])})
    source = ShardSource(root=root)
    assert _shown(source) == [0, 1, 2]
    assert source.test() is None
    with pytest.raises(UserError, match=r"no shards of a test split in "):
        ShardSource(root=root, split="test")


def test_a_path_with_brackets_is_a_path(root: Path) -> None:
    (root / "a[1]{2,3}").mkdir()
    _put(root / "a[1]{2,3}", _three())
    assert len(ShardSource(root=root / "a[1]{2,3}")) == 12


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none", "does not exist"),
        ("none-*.tar", "no .tar file matches"),
        ("empty", "no .tar file matches"),
        ("x-{000002..000000}.tar", "its first number must not be above its last"),
        ("x-00000{0,1,0}.tar", "is listed twice"),
        ("{x-000000,link}.tar", "is listed twice"),
        ("zipped", r"compressed archives \(a\.tar\.gz\), .* python -m dinotrain\.prepare"),
        ("zero.tar", r"the shard can't be used \(.*zero\.tar: empty file\)$"),
        ("none-{0..1}.tar", r"2 of 2 shards can't be used \(.*none-0\.tar: No such file"),
        ("folder.tar", "no .tar file matches"),
    ],
)
def test_roots_that_are_refused(root: Path, pattern: str, message: str) -> None:
    _put(root, {**_three(), "zero.tar": b""})
    for folder in ("empty", "zipped", "folder.tar"):
        (root / folder).mkdir()
    (root / "zipped" / "a.tar.gz").write_bytes(b"")
    (root / "link.tar").symlink_to(root / "x-000000.tar")
    with pytest.raises(UserError, match=rf"^data\.root: .*{message}"):
        ShardSource(root=root / pattern)


@pytest.mark.parametrize(("name", "value"), [("window", 0), ("min_size", 0), ("max_broken", 1.5)])
def test_arguments_that_are_refused(root: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got "):
        ShardSource(root=root, **{name: value})


def test_bad_shards_are_left_out_within_the_limit(root: Path) -> None:
    files = _three()
    _put(root, {**files, "zero.tar": b"", "page.tar": b"<html>" * 500, "cut.tar": files["x-000000.tar"][:4000]})
    (root / "folder.tar").mkdir()
    (root / "broken.tar").symlink_to(root / "nothing")
    (root / "none.tar").write_bytes(tarfile.TarInfo("readme").tobuf() + bytes(1024))
    with pytest.raises(UserError) as raised:
        ShardSource(root=root, max_broken=0.5)
    assert str(raised.value) == (
        f"data.root: 5 of 9 shards can't be used ({root}/broken.tar: No such file or directory); "
        "data.max_broken allows 50.00%"
    )
    for _ in range(2):  # once from what was stored
        source = ShardSource(root=root, max_broken=0.6)
        assert _shown(source) == [0, 1, *range(12)]
        reasons = {skipped.name: skipped.reason for skipped in source.left_out}
        assert reasons.pop("cut.tar").startswith("cut short at byte 4000")
        assert reasons == {
            "broken.tar": "No such file or directory",
            "folder.tar": "is a folder",
            "none.tar": "no image in it",
            "page.tar": "not a tar archive",
            "zero.tar": "empty file",
        }
    (root / "broken.tar").unlink()
    (root / "broken.tar").mkdir()
    assert ShardSource(root=root, max_broken=0.6).left_out[0] == Skipped("broken.tar", "is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission(root: Path) -> None:
    _put(root, _three())
    (root / "x-000001.tar").chmod(0)
    assert ShardSource(root=root, max_broken=0.5).left_out[0].reason == "Permission denied"


def test_a_cut_shard_alone_is_used(root: Path) -> None:
    _put(root, {"x.tar": _three()["x-000000.tar"][:4000]})
    source = ShardSource(root=root)
    assert _shown(source) == [0, 1]
    assert "2 of its samples are used" in source.left_out[0].reason


def test_names_that_are_no_utf8(root: Path) -> None:
    data = _tar([1, 2], names=[b"caf\xe9", b"two\nlines"])
    with open(os.fsencode(root) + b"/\xff.tar", "wb") as file:
        file.write(data)
    source = ShardSource(root=root)
    assert _names(source) == [r"\xff.tar/caf\xe9", r"\xff.tar/two\nlines"]
    assert _shown(source) == [1, 2]


def test_broken_images_within_a_shard(root: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("a.png", b""), ("b.png", _picture(1)[:40]), ("c.png", _picture(2))):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    _put(root, {"x.tar": out.getvalue()})
    source = ShardSource(root=root, min_size=19)
    for index, reason in enumerate(("empty file", r"\w", "20x18 px, smaller")):
        with pytest.raises(BrokenImage, match=reason):
            source.image(index)


def test_labels_of_some_shards_are_not_used(root: Path) -> None:
    _put(root, {**_three(), "y.tar": _tar([20])})
    with pytest.warns(UserWarning, match=r"in 1 of 4 shards some samples have none \(the first: y\.tar\)"):
        source = ShardSource(root=root)
    assert source.labels is None
    assert source.classes is None
    assert ShardSource(root=root, labels=False).labels is None


def test_class_names(root: Path) -> None:
    _put(root, _three())
    (root / "summary.json").write_text(json.dumps({"classes": ["cat", "dog", "cow"]}))
    assert ShardSource(root=root).classes == ("cat", "dog", "cow")
    (root / "classes.txt").write_text("Katze\nHund\nKuh\nMaus\n")
    assert ShardSource(root=root).classes == ("Katze", "Hund", "Kuh", "Maus")
    (root / "classes.txt").write_text("Katze\nHund")
    with pytest.raises(UserError, match=r"classes\.txt names 2 classes, but there is a label 2"):
        ShardSource(root=root)


def _save_index(data: bytes, path: Path) -> None:
    scan_tar(lambda start, stop: data[start:stop], len(data)).index.save(path)


def test_an_index_beside_the_shard(root: Path) -> None:
    files = _three()
    _put(root, files)
    # With samples of its own one sees that it is used.
    data = files["x-000001.tar"]
    index = scan_tar(lambda start, stop: data[start:stop], len(data)).index
    TarIndex(index.names, index.offsets[[2, 1, 0]], index.sizes[[2, 1, 0]], index.labels, index.tar_bytes).save(
        root / "x-000001.index.npz"
    )
    assert _shown(ShardSource(root=root)) == [*range(5), 7, 6, 5, *range(8, 12)]


def test_an_index_of_another_tar_is_not_used(root: Path) -> None:
    files = _three()
    _put(root, files)
    _save_index(files["x-000000.tar"], root / "x-000001.index.npz")
    (root / "x-000002.index.npz").write_bytes(b"damaged")
    assert _shown(ShardSource(root=root)) == list(range(12))


def _read_count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every read at a position of a file."""
    reads: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: (reads.append(1), pread(*arguments))[1])
    return reads


def test_shards_are_scanned_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(root, _three())
    reads = _read_count(monkeypatch)
    first = ShardSource(root=root)
    assert reads
    reads.clear()
    second = ShardSource(root=root)
    assert not reads
    assert second.fingerprint() == first.fingerprint()
    _put(root, {"x-000003.tar": _tar([50], [1])})
    assert len(ShardSource(root=root)) == 13
    assert 0 < len(reads) < 10  # only the new one
    _put(root, {"x-000000.tar": _tar([60, 61], [1, 2])})
    (root / "x-000001.tar").unlink()
    assert _shown(ShardSource(root=root)) == [60, 61, *range(8, 12), 50]


def _own_memory() -> int:
    """Bytes of this process that belong to no file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_large_index_costs_no_memory(root: Path) -> None:
    count = 1_000_000
    names = PathTable.of_arrays(
        np.frombuffer(b"".join(b"%08d" % number for number in range(count)), np.uint8), np.arange(count + 1) * 8
    )
    index = TarIndex(names, np.arange(count) * 1024 + 512, np.full(count, 512), np.arange(count) % 10, count * 1024)
    index.save(root / "x.index.npz")
    with open(root / "x.tar", "wb") as file:
        file.truncate(index.tar_bytes)
    del index, names
    assert len(ShardSource(root=root)) == count
    gc.collect()
    before = _own_memory()
    source = ShardSource(root=root)
    for number in range(0, count, 1000):
        assert source.name(number) == f"x.tar/{number:08d}"
    assert source.read(count - 1) == bytes(512)
    assert _own_memory() - before < 8_000_000  # of 40 MB that the index has


def test_fingerprint(root: Path, tmp_path: Path) -> None:
    files = _three()
    _put(root, files)
    before = ShardSource(root=root).fingerprint()
    moved = root.rename(tmp_path / "elsewhere")
    assert ShardSource(root=moved).fingerprint() == before
    assert ShardSource(root=f"{moved}/x-00000{{2,1,0}}.tar").fingerprint() != before
    (moved / "x-000000.tar").write_bytes(_tar([0, 1, 2, 3, 90], [0] * 5))
    assert ShardSource(root=moved).fingerprint() != before


def test_every_sample_once_per_epoch_from_any_position(root: Path) -> None:
    rng = np.random.default_rng(0)
    for shard, count in enumerate(rng.integers(1, 9, 12).tolist()):
        _put(root, {f"{shard:02d}.tar": _tar(range(shard * 10, shard * 10 + count))})
    source = ShardSource(root=root, window=3)
    order, length = source.order(), len(source)
    whole = order(np.arange(3 * length), 7)
    for epoch in range(3):
        assert sorted(whole[epoch * length : (epoch + 1) * length].tolist()) == list(range(length))
    assert whole[:length].tolist() != whole[length : 2 * length].tolist()
    for start in rng.integers(0, 3 * length, 10).tolist():
        part = ShardSource(root=root, window=3).order()(np.arange(start, 3 * length), 7)
        assert part.tolist() == whole[start:].tolist()
    shards = [source.name(index).split("/")[0] for index in whole[:length].tolist()]
    for place in range(length):  # a shard is left before others than those of its window begin
        assert len(set(shards[place : place + 4])) <= 6


def test_few_files_are_open(root: Path) -> None:
    _put(root, {f"{number:03d}.tar": _tar([number]) for number in range(150)})
    source = ShardSource(root=root)
    before = len(os.listdir("/proc/self/fd"))
    assert _shown(source) == list(range(150))
    assert len(os.listdir("/proc/self/fd")) <= before + 100


def test_a_shard_that_goes_while_training(root: Path) -> None:
    _put(root, _three())
    source = ShardSource(root=root)
    (root / "x-000001.tar").unlink()
    os.truncate(root / "x-000002.tar", 100)
    with pytest.raises(BrokenImage, match="No such file"):
        source.image(5)
    with pytest.raises(BrokenImage):
        source.image(8)
    assert source.image(0).shape == (18, 20, 3)


@FORKED
def test_forked_and_pickled(root: Path) -> None:
    _put(root, _three())
    source = ShardSource(root=root)
    assert _shown(pickle.loads(pickle.dumps(source))) == list(range(12))
    assert _in_child(source) == list(range(12))


def _in_child(source: ShardSource) -> list[int]:
    """What a forked process reads, after it was told what comes."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def work() -> None:
        source.fetch(range(len(source)))
        queue.put(_shown(source))

    process = context.Process(target=work)
    process.start()
    shown = queue.get(timeout=300)
    process.join(30)
    assert process.exitcode == 0
    queue.close()
    queue.join_thread()
    return shown


@pytest.fixture
def server() -> Iterator[FileServer]:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    with FileServer({f"/set/{name}": data for name, data in _three().items()}) as served:
        yield served


def _range(server: FileServer, query: str = "") -> str:
    return f"{server.url}/set/x-{{000000..000002}}.tar{query}"


def _storage(**settings: Any) -> Storage:
    return Storage(**{"backoff": 0.01, "timeout": 10.0, **settings})


@FORKED
@pytest.mark.parametrize("query", ["", "?signature=SECRET"])
def test_over_http(server: FileServer, query: str) -> None:
    source = ShardSource(root=_range(server, query), storage=_storage())
    assert _shown(source) == list(range(12))
    assert _names(source)[5] == "x-000001.tar/000005"
    assert source.labels is not None
    assert _in_child(source) == list(range(12))
    assert _shown(source) == list(range(12))


def test_http_and_a_local_copy_are_the_same_set(server: FileServer, root: Path) -> None:
    _put(root, _three())
    assert ShardSource(root=_range(server), storage=_storage()).fingerprint() == ShardSource(root=root).fingerprint()


def test_remote_shards_are_indexed_once(server: FileServer, cache_folder: Path) -> None:
    ShardSource(root=_range(server, "?signature=SECRET"), storage=_storage())
    server.requests.clear()
    ShardSource(root=_range(server, "?signature=ANOTHER"), labels=False, storage=_storage())
    assert not any(request.startswith("GET") for request in server.requests)
    assert not any(b"SECRET" in path.read_bytes() for path in cache_folder.rglob("*") if path.is_file())


def test_a_remote_index_is_used(server: FileServer, tmp_path: Path) -> None:
    for name in ("x-000000", "x-000001", "x-000002"):
        _save_index(server.files[f"/set/{name}.tar"], tmp_path / "index")
        server.files[f"/set/{name}.index.npz"] = (tmp_path / "index").read_bytes()
    server.files["/set/classes.txt"] = b"cat\ndog\ncow"
    source = ShardSource(root=_range(server), storage=_storage())
    assert not any(request.startswith("GET") and request.endswith(".tar") for request in server.requests)
    assert source.classes == ("cat", "dog", "cow")
    assert _shown(source) == list(range(12))


def test_a_batch_comes_at_once(server: FileServer) -> None:
    source = ShardSource(root=_range(server), storage=_storage())
    server.requests.clear()
    source.fetch(list(range(12)))
    fetched = sum(server.requests.values())
    assert fetched == 3  # what lies close together is asked for together
    assert _shown(source) == list(range(12))
    assert sum(server.requests.values()) == fetched


def test_remote_shards_that_can_not_be_listed(server: FileServer) -> None:
    server.faults["/set/x-000001.tar"], server.for_ever = [(403, b"expired")], {"/set/x-000001.tar"}
    with pytest.raises(UserError) as raised:
        ShardSource(root=_range(server, "?signature=SECRET"), storage=_storage())
    assert str(raised.value) == (
        f"data.root: 1 of 3 shards can't be used ({server.url}/set/x-000001.tar: HTTP 403 Forbidden); "
        "data.max_broken allows 1.00%"
    )
    source = ShardSource(root=_range(server), max_broken=0.4, storage=_storage())
    assert _shown(source) == [*range(5), *range(8, 12)]
    assert [(skipped.name, skipped.reason) for skipped in source.left_out] == [("x-000001.tar", "HTTP 403 Forbidden")]
    server.faults.clear()
    assert len(ShardSource(root=_range(server), storage=_storage())) == 12


def test_a_remote_shard_that_fails_while_it_is_indexed_is_tried_the_next_time(server: FileServer) -> None:
    server.faults["/set/x-000001.tar"], server.for_ever = ["fine", 500], {"/set/x-000001.tar"}
    source = ShardSource(root=_range(server), max_broken=0.4, storage=_storage(retries=1))
    assert source.left_out[0].reason == "HTTP 500 Internal Server Error"
    server.faults.clear()
    assert len(ShardSource(root=_range(server), storage=_storage())) == 12


def test_passing_failures_are_not_noticed(server: FileServer) -> None:
    for name in ("x-000000", "x-000001", "x-000002"):
        server.faults[f"/set/{name}.tar"] = [503, "fine", "cut", "reset"]
    source = ShardSource(root=_range(server), storage=_storage())
    server.faults["/set/x-000000.tar"] = [500, "cut"]
    source.fetch(range(12))
    assert _shown(source) == list(range(12))


def test_a_remote_shard_that_fails_while_training(server: FileServer) -> None:
    source = ShardSource(root=_range(server), storage=_storage(retries=2, backoff=0.1))
    server.faults["/set/x-000001.tar"], server.for_ever = [503], {"/set/x-000001.tar"}
    source.fetch(range(3, 9))
    assert source.image(4).shape == (18, 20, 3)
    assert source.image(8).shape == (18, 20, 3)
    server.requests.clear()
    start = time.monotonic()
    for index in (5, 6, 7, 5):
        with pytest.raises(BrokenImage, match="HTTP 503 Service Unavailable"):
            source.image(index)
    source.fetch(range(5, 8))
    assert not server.requests
    assert time.monotonic() - start < 1


@FORKED
def test_whole_shards_are_kept(server: FileServer, tmp_path: Path) -> None:
    source = ShardSource(root=_range(server), storage=_storage(cache=str(tmp_path / "copies")))
    server.requests.clear()
    assert _in_child(source) == list(range(12))
    source.fetch(range(12))
    assert _shown(source) == list(range(12))
    assert sum(count for request, count in server.requests.items() if request.startswith("GET")) == 3


def test_shards_that_do_not_all_fit_into_the_cache(server: FileServer, tmp_path: Path) -> None:
    limit = max(map(len, server.files.values())) + 100
    source = ShardSource(root=_range(server), storage=_storage(cache=str(tmp_path / "copies"), cache_gb=limit / 1e9))
    for _ in range(2):
        assert _shown(source) == list(range(12))
    assert sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()) <= limit


def _batches(source: ShardSource, workers: int, start: int = 0) -> list[Batch]:
    loader = Loader(
        source=source,
        crops=MultiCrop(global_size=16, local_size=8, num_local=1),
        augment=Augment(),
        masks=None,
        global_batch=4,
        micro_batch=4,
        seed=1,
        workers=workers,
        start_step=start,
        steps=7,
    )
    return list(loader)


@FORKED
def test_batches_are_the_same_from_anywhere(server: FileServer, root: Path, tmp_path: Path) -> None:
    _put(root, _three())
    expected = _batches(ShardSource(root=root, window=2), workers=0)
    far = ShardSource(root=_range(server), window=2, storage=_storage())
    kept = ShardSource(root=_range(server), window=2, storage=_storage(cache=str(tmp_path / "copies")))
    for batches in (_batches(far, 2), _batches(kept, 2), _batches(far, 0), expected[:3] + _batches(far, 1, start=3)):
        assert [batch.names for batch in batches] == [batch.names for batch in expected]
        for batch, other in zip(batches, expected, strict=True):
            assert torch.equal(batch.global_crops, other.global_crops)
            assert not batch.skipped


@FORKED
def test_a_shard_that_fails_is_replaced_and_reported(server: FileServer) -> None:
    source = ShardSource(root=_range(server), storage=_storage(retries=1))
    server.faults["/set/x-000001.tar"], server.for_ever = [(403, b"expired")], {"/set/x-000001.tar"}
    batches = _batches(source, 1)[:3]
    names = [name for batch in batches for name in batch.names]
    assert len(names) == 12
    assert not any(name.startswith("x-000001") for name in names)
    skipped = {(skipped.name[:12], skipped.reason) for batch in batches for skipped in batch.skipped}
    assert skipped == {("x-000001.tar", "HTTP 403 Forbidden")}


def test_http_folders_are_refused(server: FileServer) -> None:
    with pytest.raises(UserError, match=r"files behind HTTP can't be listed; name them"):
        ShardSource(root=f"{server.url}/set/", storage=_storage())
    with pytest.raises(UserError, match=r"the shard can't be used \(.*: HTTP 404 Not Found\)"):
        ShardSource(root=f"{server.url}/none.tar", storage=_storage())


@FORKED
def test_on_s3() -> None:
    pytest.importorskip("s3fs")
    fsspec = pytest.importorskip("fsspec")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"key": "test", "secret": "hush", "endpoint_url": f"http://{host}:{port}"}
        files = fsspec.filesystem("s3", **options)
        files.mkdir("shard-pictures")
        for name, data in _three().items():
            files.pipe(f"shard-pictures/set/{name}", data)
        storage = _storage(options=options)
        for root in ("s3://shard-pictures/set/", "s3://shard-pictures/set", "s3://shard-pictures/set/x-*.tar"):
            source = ShardSource(root=root, storage=storage)
            assert len(source) == 12
        files.pipe("shard-pictures/split/train/x.tar", _tar([1]))
        files.pipe("shard-pictures/split/val/x.tar", _tar([2]))
        held_out = ShardSource(root="s3://shard-pictures/split", storage=storage).test()
        assert held_out is not None
        assert _shown(held_out) == [2]
        assert _in_child(source) == list(range(12))
        with pytest.raises(UserError, match=r"data\.root: no \.tar file matches s3://shard-pictures/none-\*\.tar"):
            ShardSource(root="s3://shard-pictures/none-*.tar", storage=storage)
        with pytest.raises(UserError, match=r"data\.root: can't list s3://nobody/set: "):
            ShardSource(root="s3://nobody/set", storage=storage)
    finally:
        server.stop()


def test_what_webdataset_writes(root: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{root}/w-%06d.tar", maxcount=3, verbose=0) as writer:
        for number in range(7):
            writer.write({"__key__": f"{number:05d}", "png": _picture(number), "cls": number % 2})
    source = ShardSource(root=f"{root}/w-{{000000..000002}}.tar")
    assert _shown(source) == list(range(7))
    assert source.labels is not None
    assert source.labels.tolist() == [number % 2 for number in range(7)]
