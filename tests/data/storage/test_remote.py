"""Remote files: what is read, what is tried again, what is kept, and what is refused; against real local servers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer

from dinotrain.data.broken import BrokenImage
from dinotrain.data.storage.remote import Remote, Storage, is_remote, shown
from dinotrain.errors import UserError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

DATA = bytes(range(256)) * 40
FORKED = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/x.tar": DATA, "/y.tar": DATA[::-1], "/empty": b""}) as served:
        yield served


def _remote(**settings: Any) -> Remote:
    return Remote(Storage(**{"backoff": 0.01, "timeout": 10.0, **settings}))


def test_bytes_of_a_file(server: FileServer) -> None:
    remote = _remote()
    url = f"{server.url}/x.tar"
    assert remote.read(url) == DATA
    assert remote.read(url, 10, 300) == DATA[10:300]
    assert remote.read(url, len(DATA) - 5) == DATA[-5:]
    assert remote.read(url, 7, 7) == b""
    assert remote.size(url) == len(DATA)
    assert remote.find(url) == [url]


def test_stamp_tells_another_file(server: FileServer) -> None:
    url = f"{server.url}/x.tar"
    before = _remote().stamp(url)
    assert _remote().stamp(url) == before
    server.files["/x.tar"] = DATA[::-1]
    assert _remote().stamp(url) != before


@pytest.mark.parametrize("fault", [500, 502, 503, 429, 408, "reset", "cut"])
def test_what_may_pass_is_tried_again(server: FileServer, fault: Any) -> None:
    server.faults["/x.tar"] = [fault, fault]
    assert _remote().read(f"{server.url}/x.tar", 0, 5000) == DATA[:5000]
    assert server.requests["GET /x.tar"] == 3


def test_attempts_are_counted_and_spaced(server: FileServer) -> None:
    server.faults["/x.tar"], server.for_ever = [503], {"/x.tar"}
    start = time.monotonic()
    with pytest.raises(BrokenImage) as raised:
        _remote(retries=2, backoff=0.1).read(f"{server.url}/x.tar", 0, 5)
    assert raised.value.reason == "HTTP 503 Service Unavailable"
    assert server.requests["GET /x.tar"] == 3
    assert time.monotonic() - start > 0.15


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (401, "HTTP 401 Unauthorized"),
        (
            (403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
            "HTTP 403 Forbidden",
        ),
        (404, "HTTP 404 Not Found"),
        (410, "HTTP 410 Gone"),
    ],
)
def test_what_lasts_is_told_at_once(server: FileServer, fault: Any, reason: str) -> None:
    server.faults["/x.tar"], server.for_ever = [fault], {"/x.tar"}
    with pytest.raises(BrokenImage) as raised:
        _remote(backoff=5.0).read(f"{server.url}/x.tar?signature=SECRET", 0, 5)
    assert raised.value.reason == reason
    assert server.requests["GET /x.tar"] == 1
    with pytest.raises(BrokenImage) as raised:
        _remote(backoff=5.0).size(f"{server.url}/x.tar")
    assert raised.value.reason == reason


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_a_body_that_is_always_cut(server: FileServer, fault: str) -> None:
    server.faults["/x.tar"], server.for_ever = [fault], {"/x.tar"}
    with pytest.raises(BrokenImage) as raised:
        _remote(retries=1).read(f"{server.url}/x.tar", 0, 5000)
    assert "\n" not in raised.value.reason
    assert raised.value.reason
    assert server.requests["GET /x.tar"] >= 2


def test_no_answer_in_time(server: FileServer) -> None:
    server.faults["/x.tar"] = ["slow"]
    start = time.monotonic()
    with pytest.raises(BrokenImage, match=r"^no answer within 0.3 s$"):
        _remote(retries=0, timeout=0.3).read(f"{server.url}/x.tar", 0, 5)
    assert time.monotonic() - start < 3


def test_nobody_there() -> None:
    with FileServer() as gone:
        url = gone.url
    with pytest.raises(BrokenImage, match=r"(?i)connect"):
        _remote(retries=1).read(f"{url}/x.tar", 0, 5)
    with pytest.raises(BrokenImage, match=r"(?i)connect"):
        _remote(retries=1).size(f"{url}/x.tar")


def test_a_server_that_ignores_ranges(server: FileServer) -> None:
    server.ranges = False
    with pytest.raises(BrokenImage, match=r"HTTP range requests"):
        _remote().read(f"{server.url}/x.tar", 10, 20)
    assert server.requests["GET /x.tar"] == 1


def test_many_at_once_with_their_errors(server: FileServer) -> None:
    server.delay = 0.2
    url = f"{server.url}/x.tar"
    ranges = [(url, start, start + 100) for start in range(0, 1600, 100)]
    start = time.monotonic()
    results = _remote().read_many([*ranges, (f"{server.url}/none", 0, 5)])
    assert time.monotonic() - start < 2.5
    assert results[:16] == [DATA[first:last] for _, first, last in ranges]
    assert isinstance(results[16], BrokenImage)
    assert results[16].reason == "HTTP 404 Not Found"
    assert _remote().read_many([]) == []


def test_http_is_not_listed(server: FileServer) -> None:
    for url in (f"{server.url}/folder/", f"{server.url}/*.tar"):
        with pytest.raises(UserError, match=r"data\.root: .* can't be listed; .*\{000000\.\.000123\}"):
            _remote().find(url)


def test_kinds_of_urls_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"data.root: can't read nothing:// URLs"):
        _remote().read("nothing://bucket/x", 0, 5)

    def missing(*args: object, **kwargs: object) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match=r"gs:// needs .*Please install gcsfs.*pip install 'dinotrain\[gcs\]'"):
        _remote().read("gs://bucket/x", 0, 5)


def test_any_other_file_system_of_fsspec() -> None:
    files = fsspec.filesystem("memory")
    for name in ("b.tar", "a.tar", "sub/c.tar", "d.txt"):
        files.pipe(f"/set/{name}", name.encode())
    remote = _remote()
    assert remote.find("memory://set/") == ["memory:///set/a.tar", "memory:///set/b.tar", "memory:///set/d.txt"]
    assert remote.find("memory://set/*.tar") == ["memory:///set/a.tar", "memory:///set/b.tar"]
    assert remote.read("memory://set/a.tar", 1, 3) == b".t"
    with pytest.raises(BrokenImage, match=r"^no such file$"):
        remote.read("memory://set/none", 0, 3)
    with pytest.raises(UserError, match=r"data.root: can't list memory://none: no such file"):
        remote.find("memory://none")
    with pytest.raises(BrokenImage, match=r"^is a folder$"):
        remote.size("memory://set")


def test_what_is_remote() -> None:
    assert is_remote("s3://bucket/x.tar")
    assert is_remote("https://host/x.tar")
    assert not is_remote("/data/x.tar")
    assert not is_remote(Path("x.tar"))
    assert not is_remote("file:///data/x.tar")


def test_no_secrets_in_texts() -> None:
    assert "hush" not in repr(Storage(options={"secret": "hush"}))
    assert shown("https://me:hush@host/x.tar?signature=hush") == "https://host/x.tar"


@pytest.mark.parametrize(
    ("name", "value"),
    [("retries", -1), ("retries", 1.5), ("backoff", -0.1), ("timeout", 0), ("cache_gb", 0), ("options", ["key"])],
)
def test_storage_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got "):
        Storage(**{name: value})


def _in_children(work: Callable[[], bytes], children: int = 3) -> list[bytes]:
    """Results of the same work in forked processes at once."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=lambda: queue.put(work())) for _ in range(children)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    queue.close()
    queue.join_thread()
    return results


@FORKED
def test_forked_processes_and_the_parent_go_on(server: FileServer) -> None:
    remote = _remote(retries=0)
    url = f"{server.url}/x.tar"
    assert remote.read(url, 0, 10) == DATA[:10]

    def work() -> bytes:
        parts = remote.read_many([(url, start, start + 10) for start in range(0, 200, 10)])
        return b"".join(part for part in parts if isinstance(part, bytes))

    for _ in range(2):
        assert _in_children(work) == [DATA[:200]] * 3
        assert remote.read(url, 5, 10) == DATA[5:10]


def test_it_can_be_sent_to_another_process(server: FileServer) -> None:
    remote = _remote()
    remote.read(f"{server.url}/x.tar", 0, 5)
    assert pickle.loads(pickle.dumps(remote)).read(f"{server.url}/x.tar", 0, 5) == DATA[:5]


def test_a_local_copy_is_made_once(server: FileServer, tmp_path: Path) -> None:
    remote = _remote(cache=str(tmp_path / "new" / "cache"))
    path = remote.local(f"{server.url}/x.tar")
    assert Path(path).read_bytes() == DATA
    assert remote.local(f"{server.url}/x.tar") == path
    assert _remote(cache=str(tmp_path / "new" / "cache")).local(f"{server.url}/x.tar") == path
    assert server.requests["GET /x.tar"] == 1
    assert Path(remote.local(f"{server.url}/empty")).read_bytes() == b""


def test_a_changed_file_is_copied_anew(server: FileServer, tmp_path: Path) -> None:
    before = _remote(cache=str(tmp_path)).local(f"{server.url}/x.tar")
    server.files["/x.tar"] = DATA[::-1]
    after = _remote(cache=str(tmp_path)).local(f"{server.url}/x.tar")
    assert Path(before).read_bytes() == DATA
    assert Path(after).read_bytes() == DATA[::-1]


def test_a_download_that_fails_leaves_nothing_that_counts(server: FileServer, tmp_path: Path) -> None:
    server.files["/x.tar"] = bytes(20_000_000)
    server.faults["/x.tar"] = ["fine", "fine", 403]  # the first asks for the size, and there are three pieces
    remote = _remote(cache=str(tmp_path))
    with pytest.raises(BrokenImage, match=r"HTTP 403"):
        remote.local(f"{server.url}/x.tar")
    assert Path(remote.local(f"{server.url}/x.tar")).stat().st_size == 20_000_000
    assert not list(tmp_path.glob("*.part"))


def test_a_copy_that_was_cut_is_made_anew(server: FileServer, tmp_path: Path) -> None:
    path = _remote(cache=str(tmp_path)).local(f"{server.url}/x.tar")
    os.truncate(path, 100)
    assert Path(_remote(cache=str(tmp_path)).local(f"{server.url}/x.tar")).read_bytes() == DATA


def test_least_recently_used_files_are_removed(server: FileServer, tmp_path: Path) -> None:
    server.files |= {f"/{name}": bytes([number]) * 1000 for number, name in enumerate("abcd")}
    remote = _remote(cache=str(tmp_path), cache_gb=2500e-9)
    paths = {}
    for name in ("a", "b", "a", "c"):
        paths[name] = remote.local(f"{server.url}/{name}")
        time.sleep(0.02)
    assert [os.path.exists(paths[name]) for name in "abc"] == [True, False, True]
    assert Path(remote.local(f"{server.url}/b")).read_bytes() == b"\1" * 1000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2500
    with pytest.raises(UserError, match=r"storage\.cache_gb: 2\.5e-06 GB are too few"):
        remote.local(f"{server.url}/x.tar")


def test_a_cache_that_can_not_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"storage\.cache: can't write to .*file: "):
        _remote(cache=str(tmp_path / "file")).local(f"{server.url}/x.tar")


@FORKED
def test_processes_that_want_the_same_file_download_it_once(server: FileServer, tmp_path: Path) -> None:
    server.delay = 0.2
    remote = _remote(cache=str(tmp_path))

    def work() -> bytes:
        return Path(remote.local(f"{server.url}/x.tar")).read_bytes()

    assert _in_children(work, 4) == [DATA] * 4
    assert server.requests["GET /x.tar"] == 1


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Options for a server of the S3 protocol with the bucket `pictures`."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "test", "secret": "hush", "endpoint_url": f"http://{host}:{port}"}
    files = fsspec.filesystem("s3", **options)
    files.mkdir("pictures")
    for name in ("set/b.tar", "set/a.tar", "set/deep/c.tar"):
        files.pipe(f"pictures/{name}", DATA + name.encode())
    yield options
    server.stop()


def test_s3(s3: dict[str, Any]) -> None:
    remote = _remote(options=s3)
    assert remote.find("s3://pictures/set/") == ["s3://pictures/set/a.tar", "s3://pictures/set/b.tar"]
    assert remote.find("s3://pictures/set/b*") == ["s3://pictures/set/b.tar"]
    assert remote.read("s3://pictures/set/a.tar", len(DATA), len(DATA) + 9) == b"set/a.tar"
    assert remote.size("s3://pictures/set/a.tar") == len(DATA) + 9
    assert len({remote.stamp(f"s3://pictures/set/{name}.tar") for name in "ab"}) == 2


def test_s3_says_what_is_missing(s3: dict[str, Any]) -> None:
    remote = _remote(options=s3, backoff=5.0)
    with pytest.raises(BrokenImage, match=r"^NoSuchKey: The specified key does not exist"):
        remote.read("s3://pictures/none.tar", 0, 5)
    with pytest.raises(BrokenImage, match=r"^NoSuchBucket: The specified bucket does not exist"):
        remote.read("s3://nobody/x.tar", 0, 5)
    with pytest.raises(UserError, match=r"data\.root: can't list s3://nobody/set/: "):
        remote.find("s3://nobody/set/")


@FORKED
def test_s3_in_forked_processes(s3: dict[str, Any]) -> None:
    remote = _remote(options=s3)
    url = "s3://pictures/set/a.tar"
    assert remote.read(url, 0, 10) == DATA[:10]
    assert _in_children(lambda: remote.read(url, 3, 10)) == [DATA[3:10]] * 3
    assert remote.read(url, 0, 10) == DATA[:10]


_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def test_s3_that_is_busy_or_denies(server: FileServer) -> None:
    pytest.importorskip("s3fs")
    server.files["/pictures/x.tar"] = DATA
    server.faults["/pictures/x.tar"] = [(503, _BUSY), (503, _BUSY)]
    remote = _remote(options={"anon": True, "endpoint_url": server.url})
    assert remote.read("s3://pictures/x.tar", 0, 9) == DATA[:9]
    assert server.requests["GET /pictures/x.tar"] == 3
    server.faults["/pictures/x.tar"] = [(403, _DENIED)]
    with pytest.raises(BrokenImage, match=r"^AccessDenied: Access Denied$"):
        remote.read("s3://pictures/x.tar", 0, 9)
    assert server.requests["GET /pictures/x.tar"] == 4
