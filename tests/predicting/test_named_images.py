"""The images that words on a command line stand for."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path

import pytest
from image_files import encoded

from dinotrain.intake.fetch import Fetcher
from dinotrain.intake.limits import Limits
from dinotrain.intake.refused import Refused
from dinotrain.predicting.images import Named, named_images

LIMITS = Limits(max_mb=0.1)


def found(*words: str, stdin: int = 0) -> list[Named]:
    return list(named_images(words, limits=LIMITS, fetcher=Fetcher(), stdin=stdin))


def reasons(*words: str) -> list[str]:
    told = []
    for named in found(*words):
        with pytest.raises(Refused) as caught:
            named.read()
        told.append(caught.value.reason)
    return told


def test_folders_are_read_at_any_depth_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c/d.webp", "c/e/f.png", ".hidden/x.png", "c/.y.png", "notes.txt", "line\nend.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "c" / "round").symlink_to(tmp_path)
    (tmp_path / "c" / "link.png").symlink_to(tmp_path / "b.png")
    images = found(str(tmp_path))
    names = [image.name.removeprefix(f"{tmp_path}/") for image in images]
    assert names == ["a.JPG", "b.png", r"line\nend.png", "c/d.webp", "c/link.png", "c/e/f.png"]
    assert [image.read() for image in images][:2] == [b"a.JPG", b"b.png"]


def test_what_is_not_there_is_one_image_that_fails(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(100_001))
    os.mkfifo(tmp_path / "pipe.png")
    assert reasons(str(tmp_path / "none"), str(tmp_path / "large.png"), str(tmp_path / "pipe.png")) == [
        "no such file or directory",
        "more than 0.1 MB, the most that is taken",
        "not a regular file",
    ]
    (tmp_path / "empty").mkdir()
    assert reasons(str(tmp_path / "empty")) == ["no images in this folder"]
    assert reasons("http://127.0.0.1/a.png") == ["its URL: the address of its host is not one of the public internet"]


def test_lines_of_standard_input() -> None:
    data = encoded()
    reader, writer = os.pipe()
    lines = [base64.b64encode(data), b"", b"data:image/png;base64," + base64.b64encode(data), b"\xff!", b"A" * 300_000]

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(b"\n".join(lines) + b"\r\n" + base64.b64encode(data))

    threading.Thread(target=write).start()
    images = found("-", stdin=reader)
    os.close(reader)
    assert [image.name for image in images] == ["line 1", "line 3", "line 4", "line 5", "line 6"]
    assert [images[index].read() for index in (0, 1, 4)] == [data] * 3
    with pytest.raises(Refused, match="wrong base64"):
        images[2].read()
    with pytest.raises(Refused, match=r"more than 0.1 MB"):
        images[3].read()
