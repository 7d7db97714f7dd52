"""Lists of image files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.listing import ListSource
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
    ("text", "words"), [("", "no path in"), (" \n\n", "no path in"), ("a\tcat\nb\n", "has labels, but none for b")]
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
