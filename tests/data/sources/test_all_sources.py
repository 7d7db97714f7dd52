"""What every source must hold to: the same batches whatever the workers, the processes and the start."""

from __future__ import annotations

import io
import os
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinotrain.data.augment import Augment
from dinotrain.data.batch import Batch
from dinotrain.data.crops import MultiCrop
from dinotrain.data.loader import Loader
from dinotrain.data.masks import MaskSampler
from dinotrain.data.order import sample_index
from dinotrain.data.source import Source
from dinotrain.data.sources.arrays import ArraySource
from dinotrain.data.sources.embedded import EmbeddedSource
from dinotrain.data.sources.folder import FolderSource
from dinotrain.data.sources.hub import HubSource
from dinotrain.data.sources.imagenet import ImageNetSource
from dinotrain.data.sources.listing import ListSource
from dinotrain.data.sources.mask_folder import MaskFolderSource
from dinotrain.data.sources.mix import MixSource
from dinotrain.data.sources.parquet import ParquetSource
from dinotrain.data.sources.scenes import ScenesSource
from dinotrain.data.sources.shards import ShardSource
from dinotrain.data.storage.remote import Storage

COUNT = 30
BROKEN = 7
"""Number of the picture that can't be read, for the sources of files."""


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)


def encoded(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(index)).save(file, "PNG")
    return file.getvalue()[: 200 if index == BROKEN else None]


def write_files(folder: Path) -> list[Path]:
    paths = [folder / f"n0000000{index % 3}" / f"{index:02d}.png" for index in range(COUNT)]
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index))
    return paths


def folder_source(root: Path) -> Source:
    write_files(root)
    return FolderSource(root=root)


def list_source(root: Path, ending: str) -> Source:
    paths = [str(path) for path in write_files(root)]
    file = root / f"list{ending}"
    if ending == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"path": paths}), file)
    else:
        file.write_text("\n".join((["path"] if ending == ".csv" else []) + paths))
    return ListSource(root=file)


def imagenet_source(root: Path) -> Source:
    write_files(root / "train")
    write_files(root / "val")
    return ImageNetSource(root=root)


def write_shards(root: Path) -> None:
    root.mkdir(parents=True)
    for shard, indices in enumerate(np.array_split(np.arange(COUNT), 5)):
        with tarfile.open(root / f"part-{shard}.tar", "w") as tar:
            for index in indices.tolist():
                info = tarfile.TarInfo(f"{index:05d}.png")
                data = encoded(index)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def shard_source(root: Path) -> Source:
    write_shards(root / "shards")
    return ShardSource(root=root / "shards", window=2)


def remote_shard_source(root: Path, server: str) -> Source:
    write_shards(root / "shards")
    storage = Storage(backoff=0.01)
    return ShardSource(root=f"{server}/{root.name}/shards/part-{{0..4}}.tar", window=2, storage=storage)


def cached_shard_source(root: Path, server: str) -> Source:
    write_shards(root / "shards")
    storage = Storage(backoff=0.01, cache=str(root / "cache"))
    return ShardSource(root=f"{server}/{root.name}/shards/part-{{0..4}}.tar", window=2, storage=storage)


def remote_list_source(root: Path, server: str) -> Source:
    paths = write_files(root)
    (root / "list.txt").write_text("\n".join(f"{server}/{root.name}/{path.relative_to(root)}" for path in paths))
    return ListSource(root=root / "list.txt", storage=Storage(backoff=0.01))


def write_parquet(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir(parents=True)
    for part, indices in enumerate(np.array_split(np.arange(COUNT), 2)):
        images = [{"bytes": encoded(index), "path": f"{index}.png"} for index in indices.tolist()]
        pq.write_table(pa.table({"image": images}), root / f"train-{part}.parquet", row_group_size=4)


def parquet_source(root: Path) -> Source:
    write_parquet(root / "files")
    return ParquetSource(root=root / "files", window=3)


def remote_parquet_source(root: Path, server: str) -> Source:
    write_parquet(root / "files")
    return ParquetSource(root=f"{server}/{root.name}/files/train-0.parquet", window=3, storage=Storage(backoff=0.01))


def hub_source(root: Path, streaming: bool) -> Source:
    write_parquet(root / "files")
    return HubSource(root=root / "files", streaming=streaming, window=3)


def mask_source(root: Path) -> Source:
    for path in write_files(root / "images"):
        mask = root / "masks" / path.relative_to(root / "images")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(20, 24, dtype=np.uint8)).save(mask)
    return MaskFolderSource(root=root)


def array_source(root: Path) -> Source:
    np.savez(root / "images.npz", images=np.stack([picture(index) for index in range(COUNT)]))
    return ArraySource(root=root / "images.npz")


def mixed_source(root: Path) -> Source:
    return MixSource(
        sources=[folder_source(root / "one"), shard_source(root / "two")], weights=[3, 1], names=["one", "two"]
    )


SOURCES: dict[str, Callable[..., Source]] = {
    "folder": folder_source,
    "list": partial(list_source, ending=".txt"),
    "list in CSV": partial(list_source, ending=".csv"),
    "list in Parquet": partial(list_source, ending=".parquet"),
    "list of URLs": remote_list_source,
    "imagenet": imagenet_source,
    "shards": shard_source,
    "remote shards": remote_shard_source,
    "cached shards": cached_shard_source,
    "parquet": parquet_source,
    "remote parquet": remote_parquet_source,
    "hf": partial(hub_source, streaming=False),
    "hf streaming": partial(hub_source, streaming=True),
    "arrays": array_source,
    "embedded": lambda root: EmbeddedSource(size=24, length=COUNT),
    "masks": mask_source,
    "scenes": lambda root: ScenesSource(size=24, length=COUNT),
    "mix": mixed_source,
}
REMOTE = {"list of URLs", "remote shards", "cached shards", "remote parquet"}


class Handler(SimpleHTTPRequestHandler):
    """Files below a folder, by range."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        first, last = 0, len(data) - 1
        if wanted:
            low, high = wanted.removeprefix("bytes=").split("-")
            first = int(low) if low else len(data) - int(high)
            last = min(int(high), last) if low and high else last
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, served: tuple[Path, str], tmp_path: Path) -> Source:
    name = request.param
    if name not in REMOTE:
        return SOURCES[name](tmp_path)
    folder, address = served
    root = folder / f"{name.replace(' ', '_')}_{os.getpid()}_{random.getrandbits(32)}"
    root.mkdir()
    return SOURCES[name](root, server=address)


def batches(source: Source, count: int, **changes: int) -> list[Batch]:
    options: dict[str, Any] = {"global_batch": 8, "micro_batch": 4, "seed": 3} | changes
    loader = Loader(
        source=source,
        crops=MultiCrop(global_size=16, local_size=8, num_local=1),
        augment=Augment(),
        masks=MaskSampler(grid=4, group=4, seed=3),
        **options,
    )
    stream = iter(loader)
    taken = list(islice(stream, count))
    del stream
    return taken


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    for one, two in zip(first, second, strict=True):
        assert one.names == two.names
        assert one.skipped == two.skipped
        assert torch.equal(one.global_crops, two.global_crops)
        assert torch.equal(one.local_crops, two.local_crops)
        assert torch.equal(one.masks, two.masks)


def test_batches_do_not_depend_on_how_they_are_made(source: Source) -> None:
    whole = batches(source, 20)
    assert_same(whole, batches(source, 20, workers=2))
    start = random.randint(1, 8)
    assert_same(whole[2 * start :], batches(source, 20 - 2 * start, start_step=start, workers=1))
    shares = [batches(source, 10, world_size=2, rank=rank) for rank in (0, 1)]
    assert_same(whole, [batch for pair in zip(*shares, strict=True) for batch in pair])


def test_every_image_once_in_an_epoch_and_every_epoch_another_order(source: Source) -> None:
    if isinstance(source, MixSource):
        pytest.skip("the sets of a mixture have epochs of their own")
    order = source.order()
    length = len(source)
    epochs = [order(np.arange(epoch * length, (epoch + 1) * length), 5).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({source.name(index) for index in range(length)}) == length
    if type(source) in (FolderSource, ListSource, ArraySource):
        assert epochs[0] == sample_index(np.arange(length), length, 5).tolist()


def test_a_broken_image_is_replaced_and_named(source: Source) -> None:
    skipped = {skip.name: skip.reason for batch in batches(source, 40) for skip in batch.skipped}
    if isinstance(source, (ArraySource, EmbeddedSource, ScenesSource)):
        assert not skipped
        return
    for name, reason in skipped.items():
        assert "truncated" in reason or "broken" in reason.lower()
        assert "\n" not in name
    assert len(skipped) == (2 if isinstance(source, MixSource) else 1)
