"""Lists of image files."""

from __future__ import annotations

import io
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources import list_lines
from dinotrain.data.sources.listing import ListSource
from dinotrain.data.storage.remote import Storage
from dinotrain.errors import UserError


def _list(root: Path, text: str | bytes) -> Path:
    (root / "images").mkdir(exist_ok=True)
    for name in ("1", "2"):
        Image.new("RGB", (20, 18)).save(root / "images" / f"{name}.png")
    file = root / "list.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_paths_are_relative_to_the_list_or_a_base(tmp_path: Path) -> None:
    text = f"\ufeffimages/2.png\r\n\nimages/1.png\n{tmp_path}/images/1.png"
    source = ListSource(root=_list(tmp_path, text))
    assert len(source) == 3
    assert [source.name(index) for index in range(2)] == ["images/2.png", "images/1.png"]
    assert all(source.image(index).shape == (18, 20, 3) for index in range(3))
    assert source.labels is None
    assert source.test() is None
    based = ListSource(root=_list(tmp_path, "1.png\n"), base=tmp_path / "images")
    assert based.image(0).shape == (18, 20, 3)


def test_labels(tmp_path: Path) -> None:
    source = ListSource(root=_list(tmp_path, "images/1.png\tdog\nimages/2.png\tcat\na\tdog\n"))
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1]
    numbers = ListSource(root=_list(tmp_path, "a\t10\nb\t9\n"))
    assert numbers.classes == ("9", "10")
    assert numbers.labels is not None
    assert numbers.labels.tolist() == [1, 0]


def test_missing_and_odd_files_are_broken_when_read(tmp_path: Path) -> None:
    source = ListSource(root=_list(tmp_path, b"gone.png\nimages\ncaf\xe9.png\n"))
    for index, reason in enumerate(("No such file", "folder", "No such file")):
        with pytest.raises(BrokenImage, match=reason):
            source.image(index)
    assert source.name(2) == r"caf\xe9.png"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no path in"),
        (" \n\n", "no path in"),
        ("a\tcat\nb\n", "has labels, but none for b"),
        ("a\tcat\nb\t \n", "has labels, but none for b"),
        ("a.png\nb.png".encode("utf-16").decode("latin-1"), "is no list of paths: there is a zero byte in path 1"),
    ],
)
def test_refusals(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        ListSource(root=_list(tmp_path, text))
    assert str(caught.value).startswith("data.root: ")
    assert "\n" not in str(caught.value)


def test_no_such_list(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match="can't read"):
            ListSource(root=path)


def test_fingerprint(tmp_path: Path) -> None:
    first = ListSource(root=_list(tmp_path, "a\nb\n")).fingerprint()
    assert first == ListSource(root=_list(tmp_path, "a\nb")).fingerprint()
    assert first != ListSource(root=_list(tmp_path, "b\na\n")).fingerprint()


def _reference(data: bytes) -> list[tuple[bytes, bytes]]:
    """Path and label of each line, one by one."""
    rows = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        path, _, label = line.rstrip(b"\r").partition(b"\t")
        if path.strip():
            rows.append((path, label.strip()))
    return rows


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("chunk", [2**24, 64])
def test_text_is_read_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: bool, chunk: int) -> None:
    monkeypatch.setattr(list_lines, "_CHUNK", chunk)
    rng = np.random.default_rng(chunk)
    pieces = [b"a", b"b c", b" ", b"\r", b"/", b"caf\xe9", b"x" * 70]
    lines = []
    for _ in range(2000):
        path = b"".join(pieces[i] for i in rng.integers(len(pieces), size=rng.integers(5)))
        lines.append(path + (b"\t%d\tmore \r" % rng.integers(20) if labels else b"") + b"\r" * rng.integers(3))
    data = b"\xef\xbb\xbf" + b"\n".join(lines)
    (tmp_path / "list.txt").write_bytes(data)
    source = ListSource(root=tmp_path / "list.txt")
    expected = _reference(data)
    assert list(source.paths) == [path for path, _ in expected]
    if labels:
        assert source.labels is not None
        assert source.classes is not None
        shown = [label.decode().replace("\t", r"\t") for _, label in expected]
        assert [source.classes[label] for label in source.labels] == shown


def _rows(root: Path, name: str, columns: dict[str, list[Any]]) -> Path:
    """A table in the format that the name says."""
    if name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), root / name, row_group_size=2)
    else:
        lines = [",".join(columns), *(",".join(f'"{cell}"' for cell in row) for row in zip(*columns.values()))]
        (root / name).write_text("\n".join(lines))
    return root / name


@pytest.mark.parametrize("name", ["list.csv", "list.PARQUET".lower()])
def test_tables(tmp_path: Path, name: str) -> None:
    _list(tmp_path, "")
    paths = ["images/2.png", "images/1.png", "odd, größe.png", f"{tmp_path}/images/1.png"]
    table = {"number": [1, 2, 3, 4], "path": paths, "label": ["dog", "cat", "dog", "bird"]}
    source = ListSource(root=_rows(tmp_path, name, table))
    assert [source.name(index) for index in range(len(source))] == paths
    assert source.classes == ("bird", "cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [2, 1, 2, 0]
    assert source.image(0).shape == source.image(3).shape == (18, 20, 3)
    (tmp_path / "list.txt").write_text("\n".join(paths))
    assert source.fingerprint() == ListSource(root=tmp_path / "list.txt").fingerprint()
    named = {"file name": paths, "label": ["x", "y", "x", "y"], "class": [10, 9, 9, 10]}
    chosen = ListSource(root=_rows(tmp_path, name, named), path_column="file name", label_column="class")
    assert chosen.classes == ("9", "10")
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [1, 0, 0, 1]
    assert ListSource(root=_rows(tmp_path, name, {"path": paths})).labels is None
    partly = _rows(tmp_path, name, {"path": paths, "label": ["a", "", "b", ""]})
    assert ListSource(root=partly, label_column=None).labels is None


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
@pytest.mark.parametrize(
    ("columns", "keys", "words"),
    [
        ({"file": ["a"], "x": ["b"]}, {}, "data.path_column: .* has no column path; there are: file, x"),
        ({"path": ["a"]}, {"label_column": "class"}, "data.label_column: .* has no column class; there are: path"),
        ({"path": ["a", "b", "c"], "label": ["x", "", "y"]}, {}, "has labels, but none for b"),
        ({"path": ["a", "", "c"]}, {}, "no path"),
        ({"path": []}, {}, "no path in"),
        ({"path": ["a", "b\0"]}, {}, "zero byte in path 2"),
    ],
)
def test_refused_tables(tmp_path: Path, name: str, columns: dict[str, Any], keys: dict[str, Any], words: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    typed = {key: pyarrow.array(values, "string") if "parquet" in name else values for key, values in columns.items()}
    with pytest.raises(UserError, match=words) as caught:
        ListSource(root=_rows(tmp_path, name, typed), **keys)
    assert "\n" not in str(caught.value)


def test_what_csv_files_come_with(tmp_path: Path) -> None:
    text = '\ufeffpath ; label\r\n\r\nb.png;2\r\n"a;\nb.png"; 1\r\n'
    (tmp_path / "list.csv").write_bytes(text.encode() + b"caf\xe9.png;2\r\n")
    source = ListSource(root=tmp_path / "list.csv")
    assert list(source.paths) == [b"b.png", b"a;\nb.png", b"caf\xe9.png"]
    assert source.classes == ("1", "2")
    (tmp_path / "list.csv").write_text("path,label\na.png,1\nb.png\n")
    with pytest.raises(UserError, match=r"the row 'b.png' has 1 of 2 columns"):
        ListSource(root=tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text(f"path\n{'x' * 200_000}\n")
    with pytest.raises(UserError, match="field larger than"):
        ListSource(root=tmp_path / "list.csv")
    for data in (b"", b"\n\n"):
        (tmp_path / "list.csv").write_bytes(data)
        with pytest.raises(UserError, match="no column path; there are: none"):
            ListSource(root=tmp_path / "list.csv")


def test_parquet_columns_of_other_types(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    paths = pyarrow.array(["a", "b", "a"])
    for column in (paths.dictionary_encode(), paths.cast("large_string"), paths.cast("binary"), paths.cast("string")):
        labels = pyarrow.array([3, 1, 3], "int8")
        source = ListSource(root=_rows(tmp_path, "list.parquet", {"path": column, "label": labels}))
        assert list(source.paths) == [b"a", b"b", b"a"]
        assert source.classes == ("1", "3")
    with pytest.raises(UserError, match=r"column path has type struct.*expected paths as text"):
        ListSource(root=_rows(tmp_path, "list.parquet", {"path": pyarrow.array([{"bytes": b"x"}])}))
    with pytest.raises(UserError, match="column label has type double, expected text or whole numbers"):
        ListSource(root=_rows(tmp_path, "list.parquet", {"path": ["a"], "label": [0.5]}))
    with pytest.raises(UserError, match="some rows have no path"):
        ListSource(root=_rows(tmp_path, "list.parquet", {"path": ["a", None]}))
    with pytest.raises(UserError, match="has labels, but none for b"):
        ListSource(root=_rows(tmp_path, "list.parquet", {"path": ["a", "b"], "label": [1, None]}))
    (tmp_path / "list.parquet").write_text("path\n")
    with pytest.raises(UserError, match="can't read") as caught:
        ListSource(root=tmp_path / "list.parquet")
    assert "\n" not in str(caught.value)


def test_columns_of_a_text_list_are_ignored_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="is read as text, which has no columns"):
        assert len(ListSource(root=_list(tmp_path, "a\n"), path_column="file")) == 1


def test_a_list_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    read = list_lines.read_lines
    monkeypatch.setattr("dinotrain.data.sources.list_file.read_lines", lambda *args: calls.append(1) or read(*args))
    file = _list(tmp_path, "a\t1\nb\t2\n")
    # Just changed, it may change again within the same tick of the clock.
    ticks = count(time.time_ns())
    monkeypatch.setattr("dinotrain.data.sources.list_file.time", SimpleNamespace(time_ns=lambda: next(ticks)))
    for reads in (1, 2):
        first = ListSource(root=file)
        assert len(calls) == reads
    monkeypatch.setattr(
        "dinotrain.data.sources.list_file.time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10)
    )
    for base in (None, "/elsewhere"):
        again = ListSource(root=file, base=base)
        assert len(calls) == 3
        assert (list(again.paths), again.classes) == ([b"a", b"b"], ("1", "2"))
        assert again.fingerprint() == first.fingerprint()
    times = os.stat(file)
    file.write_text("a\t1\nc\t2\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list(ListSource(root=file).paths) == [b"a", b"c"]


class Site(ThreadingHTTPServer):
    """Serves an image under every path, but for some; counts what is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.lists: dict[str, bytes] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.path] += 1
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(0.05)
        self.wfile.write(self._answer())
        with self.server.lock:
            self.server.at_once -= 1

    def _answer(self) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (20, 18), (len(self.path), 0, 0)).save(buffer, "PNG")
        data = self.server.lists.get(self.path, buffer.getvalue())
        status = 403 if "expired" in self.path else 404 if "gone" in self.path else 200
        data = data if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    pytest.importorskip("aiohttp")
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        yield site
        site.shutdown()
        thread.join()


def test_urls_are_fetched_many_at_a_time(tmp_path: Path, site: Site) -> None:
    lines = [f"{site.url}/{number}.png?key=secret" for number in range(8)]
    lines += [f"{site.url}/gone.png", f"{site.url}/expired.png?key=secret", "images/1.png", "http://[no?key=secret"]
    source = ListSource(root=_list(tmp_path, "\n".join(lines)), storage=Storage(retries=0))
    source.fetch(range(12))
    assert len(site.asked) == 10
    assert site.most_at_once > 2
    for index in range(8):
        assert source.image(index)[0, 0, 0] == len("/0.png?key=secret")
    for index, reason in ((8, "404"), (9, "403"), (11, "URL")):
        with pytest.raises(BrokenImage, match=reason):
            source.image(index)
    assert source.image(10).shape == (18, 20, 3)
    assert set(site.asked.values()) == {1}
    source.image(0)
    assert max(site.asked.values()) == 2
    names = [source.name(index) for index in range(len(source))]
    assert names[0] == f"{site.url}/0.png"
    assert not [name for name in names if "secret" in name]


def test_remote_files_are_kept_in_the_cache_folder(tmp_path: Path, site: Site) -> None:
    storage = Storage(cache=str(tmp_path / "kept"))
    for _ in range(2):
        source = ListSource(root=_list(tmp_path, "a.png\nb.png\n"), base=f"{site.url}/x/", storage=storage)
        source.fetch([0, 1])
        assert source.image(0).shape == source.image(1).shape == (18, 20, 3)
    assert site.asked == {"/x/a.png": 1, "/x/b.png": 1}


def test_a_remote_list(tmp_path: Path, site: Site) -> None:
    site.lists["/sets/list.csv?key=secret"] = b"path,label\nimages/a.png,1\n" + site.url.encode() + b"/b.png,2\n"
    source = ListSource(root=f"{site.url}/sets/list.csv?key=secret")
    assert source.classes == ("1", "2")
    assert source.image(0)[0, 0, 0] == len("/sets/images/a.png")
    assert source.image(1)[0, 0, 0] == len("/b.png")
    with pytest.raises(UserError, match=r"data.root: can't read .*/gone.txt: .*404") as caught:
        ListSource(root=f"{site.url}/gone.txt?key=secret", storage=Storage(retries=0))
    assert "secret" not in str(caught.value)


def test_local_files_can_be_urls(tmp_path: Path) -> None:
    source = ListSource(root=f"file://{_list(tmp_path, f'file://{tmp_path}/images/1.png')}")
    source.fetch([0])
    assert source.image(0).shape == (18, 20, 3)
