"""Hard image files: each comes out the same with every JPEG decoder, or is refused in the same one line."""

from __future__ import annotations

import hashlib
import io
import os
import re
import ssl
import subprocess
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import numpy as np
import pytest
from PIL import Image

from dinotrain.data import jpeg
from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import Admits, decode, read_file


@pytest.fixture(autouse=True)
def _restore_decoder() -> Iterator[None]:
    yield
    jpeg.use_decoder(None)


def _always(height: int, width: int) -> bool:
    return True


def _outcome(data: bytes, decoder: str, admits: Admits | None = None) -> np.ndarray | str:
    """The pixels, or why there are none."""
    jpeg.use_decoder(decoder)
    try:
        return decode(data, min_size=14, admits=admits)
    except BrokenImage as broken:
        return broken.reason


def _of_both(data: bytes, admits: Admits | None = None) -> np.ndarray | str:
    """What both decoders make of a file."""
    first = _outcome(data, "pillow", admits)
    second = _outcome(data, pytest.importorskip("simplejpeg").__name__, admits)
    assert type(first) is type(second)
    assert np.array_equal(first, second)
    assert not isinstance(first, str) or (first and "\n" not in first)
    return first


def _encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _picture(width: int = 40, height: int = 24) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 6, y * 10, (x + y) * 4], -1).astype(np.uint8))


def _bomb(file_format: str) -> bytes:
    """A small file that says it is 30,000 pixels high and wide."""
    data = _encoded(_picture(), file_format)
    if file_format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + (30000).to_bytes(2, "big") * 2 + data[at + 4 :]
    chunk = b"IHDR" + (30000).to_bytes(4, "big") * 2 + data[24:29]
    return data[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]


REFUSED = {
    "truncated JPEG": (_encoded(_picture(200, 200), "JPEG")[:-300], "image file is truncated"),
    "truncated progressive JPEG": (_encoded(_picture(200, 200), "JPEG", progressive=True)[:-300], "truncated"),
    "truncated PNG": (_encoded(_picture(200, 200), "PNG")[:-300], "truncated"),
    "0 bytes": (b"", "empty file"),
    "only zeros": (bytes(5000), "not an image"),
    "web page": (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "not an image"),
    "JPEG marker and no more": (b"\xff\xd8\xff", ""),
    "1x1 JPEG": (_encoded(_picture(1, 1), "JPEG"), "1x1 px, smaller than a patch"),
    "1x1 GIF": (_encoded(_picture(1, 1), "GIF"), "1x1 px, smaller than a patch"),
    "30,000 px wide and 1 px high": (_encoded(Image.new("L", (30000, 1)), "JPEG"), "30000x1 px"),
    "30,000 px both ways, JPEG": (_bomb("JPEG"), "more than"),
    "30,000 px both ways, PNG": (_bomb("PNG"), "more than"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("admits", [None, _always], ids=["full", "half"])
def test_refused(name: str, admits: Admits | None) -> None:
    data, reason = REFUSED[name]
    outcome = _of_both(data, admits)
    assert isinstance(outcome, str)
    assert reason in outcome


def _transparent() -> Image.Image:
    image = _picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _deep() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16))


READ = {
    "30,000 px wide, JPEG": (_encoded(Image.new("RGB", (30000, 20), "red"), "JPEG", quality=95), (20, 30000)),
    "30,000 px high, PNG": (_encoded(Image.new("RGB", (20, 30000), "red"), "PNG"), (30000, 20)),
    "CMYK JPEG": (_encoded(_picture().convert("CMYK"), "JPEG"), (24, 40)),
    "CMYK TIFF": (_encoded(_picture().convert("CMYK"), "TIFF"), (24, 40)),
    "16-bit TIFF": (_encoded(_deep(), "TIFF"), (24, 40)),
    "16-bit PNG": (_encoded(_deep(), "PNG"), (24, 40)),
    "animated GIF": (_encoded(_picture(), "GIF", save_all=True, append_images=[_picture()] * 3), (24, 40)),
    "RGBA over transparency, PNG": (_encoded(_transparent(), "PNG"), (24, 40)),
    "RGBA over transparency, WebP": (_encoded(_transparent(), "WEBP", lossless=True), (24, 40)),
    "palette with transparency": (_encoded(_picture().quantize(8), "PNG", transparency=1), (24, 40)),
    "1 bit": (_encoded(_picture().convert("1"), "PNG"), (24, 40)),
    "JPEG with bytes after its end": (_encoded(_picture(), "JPEG") + b"trailing bytes" * 99, (24, 40)),
}


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    data, size = READ[name]
    outcome = _of_both(data)
    assert isinstance(outcome, np.ndarray)
    assert outcome.shape == (*size, 3)
    half = _of_both(data, _always)
    is_halved = "JPEG" in name and "CMYK" not in name
    assert isinstance(half, np.ndarray)
    assert half.shape == ((size[0] // 2, size[1] // 2, 3) if is_halved else outcome.shape)


@pytest.mark.parametrize(("ending", "file_format"), [("jpg", "PNG"), ("png", "JPEG"), ("gif", "TIFF"), ("JPEG", "GIF")])
def test_wrong_ending(tmp_path: Path, ending: str, file_format: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(_encoded(_picture(), file_format))
    with Image.open(path) as image:
        assert np.array_equal(_of_both(read_file(str(path))), np.array(image.convert("RGB")))


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(_encoded(_picture(), "JPEG"))
    (tmp_path / "x.jpg").chmod(0)
    if os.access(tmp_path / "x.jpg", os.R_OK):
        pytest.skip("nothing is forbidden to this user")
    with pytest.raises(BrokenImage, match="Permission denied"):
        read_file(str(tmp_path / "x.jpg"))


# Photographs that the tests of an image service were made with: odd metadata, sizes and colours, damaged files.
_PROJECT, _ARCHIVE = "thumbor", "thumbor-6.7.2.tar.gz"
_SHA256 = "272c6708be3054f69c65006d5828a0dd182dd0162b8b0709b7133c05a5641a7e"


def _package_index() -> str:
    """Where pip would look."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(pip, capture_output=True, text=True)
    if configured.returncode == 0:
        return configured.stdout.strip()
    from pip._internal.models.index import PyPI

    return PyPI.simple_url


def _fetched(url: str) -> bytes:
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with urllib.request.urlopen(url, timeout=15, context=context) as answer:
        return answer.read()


def _downloaded() -> bytes:
    page = f"{_package_index().rstrip('/')}/{_PROJECT}/"
    link = re.search(rf'href="([^"#]*{re.escape(_ARCHIVE)})', _fetched(page).decode())
    if link is None:
        raise OSError(f"{_ARCHIVE} is not listed")
    return _fetched(urljoin(page, link[1]))


@pytest.fixture(scope="module")
def photographs() -> dict[str, bytes]:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "dinotrain-tests"
    path = cache / _ARCHIVE
    try:
        if not path.exists():
            archive = _downloaded()
            cache.mkdir(parents=True, exist_ok=True)
            path.with_suffix(f".{os.getpid()}").write_bytes(archive)
            path.with_suffix(f".{os.getpid()}").replace(path)
        archive = path.read_bytes()
    except (OSError, ImportError) as error:
        pytest.skip(f"the hard JPEG files can't be had: {error}")
    assert hashlib.sha256(archive).hexdigest() == _SHA256
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [member for member in tar if member.isfile() and member.name.lower().endswith((".jpg", ".jpeg"))]
        return {member.name: file.read() for member in members if (file := tar.extractfile(member))}


def test_hard_photographs(photographs: dict[str, bytes]) -> None:
    assert len(photographs) >= 150
    refused = {}
    for name, data in photographs.items():
        full = _of_both(data) if len(data) < 2**20 else None
        half = _of_both(data, _always)
        assert full is None or type(full) is type(half)
        if isinstance(half, str):
            refused[Path(name).name] = half
        elif isinstance(full, np.ndarray):
            assert half.shape in (full.shape, tuple(-(-side // 2) for side in full.shape[:2]) + (3,))
    assert refused.keys() >= {"image_invalid.jpg", "BlueSquare_truncated.jpg"}
    assert len(refused) < 5
