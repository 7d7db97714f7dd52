"""JPEG files: the same pixels, of the right size, whichever decoder is installed; the same refusals, too."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps

from dinotrain.data import jpeg
from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import Admits, decode

BOTH = pytest.mark.parametrize("decoder", jpeg.DECODERS)


@pytest.fixture(autouse=True)
def _restore_decoder() -> Iterator[None]:
    yield
    jpeg.use_decoder(None)


def _use(decoder: str) -> None:
    if decoder == "simplejpeg":
        pytest.importorskip("simplejpeg")
    jpeg.use_decoder(decoder)


def _picture(height: int, width: int) -> Image.Image:
    """Smooth, with a few edges and some noise."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + k) + k) + np.cos(y / (7 + k)) + ((x + k * y) % 40 > 20) for k in range(3)]
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    return Image.fromarray((110 + 40 * np.stack(waves, -1) + 4 * noise).clip(0, 255).astype(np.uint8))


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _turned(orientation: int, **options: object) -> bytes:
    image = _picture(46, 70)  # even, as half of an odd side depends on the end it starts from
    image.getexif()[0x0112] = orientation
    return _encoded(image, exif=image.getexif(), **options)


def _several_pictures() -> bytes:
    buffer = io.BytesIO()
    _picture(60, 80).save(buffer, "MPO", save_all=True, append_images=[_picture(50, 50)])
    return buffer.getvalue()


FILES = {
    "plain": _encoded(_picture(60, 80)),
    "odd size": _encoded(_picture(61, 83)),
    "no subsampling": _encoded(_picture(61, 83), subsampling=0, quality=97),
    "half subsampling": _encoded(_picture(61, 83), subsampling=1),
    "progressive": _encoded(_picture(61, 83), progressive=True),
    "restart markers": _encoded(_picture(61, 83), restart_marker_rows=1),
    "grey": _encoded(_picture(61, 83).convert("L")),
    "grey, progressive": _encoded(_picture(61, 83).convert("L"), progressive=True),
    "coded as RGB": _encoded(_picture(61, 83), keep_rgb=True),
    "with a profile": _encoded(_picture(61, 83), icc_profile=bytes(70000)),
    "several pictures": _several_pictures(),
    "narrow": _encoded(_picture(200, 17)),
    "small": _encoded(_picture(15, 200)),
    "smallest": _encoded(_picture(1, 1)),
    **{f"orientation {number}": _turned(number) for number in range(1, 9)},
    "orientation without other data": _turned(6, subsampling=0).replace(b"JFIF\0", b"JFIX\0"),
}


def _always(height: int, width: int) -> bool:
    return True


def _outcome(data: bytes, decoder: str, admits: Admits | None = None) -> np.ndarray | str:
    """The pixels, or why there are none."""
    _use(decoder)
    try:
        return decode(data, admits=admits)
    except BrokenImage as broken:
        return broken.reason


def _equal(first: np.ndarray | str, second: np.ndarray | str) -> bool:
    return type(first) is type(second) and np.array_equal(first, second)


def _as_pillow_has_it(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


@BOTH
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name: str, decoder: str) -> None:
    pixels = _outcome(FILES[name], decoder)
    assert _equal(pixels, _as_pillow_has_it(FILES[name]))
    assert isinstance(pixels, np.ndarray)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@BOTH
@pytest.mark.parametrize("name", FILES)
def test_half_the_size(name: str, decoder: str) -> None:
    full = _as_pillow_has_it(FILES[name])
    half = _outcome(FILES[name], decoder, _always)
    assert isinstance(half, np.ndarray)
    if min(full.shape[:2]) < 16:
        assert _equal(half, full)
        return
    height, width = (-(-side // 2) for side in full.shape[:2])
    assert half.shape == (height, width, 3)
    assert half.flags.c_contiguous
    even = np.pad(full, ((0, full.shape[0] % 2), (0, full.shape[1] % 2), (0, 0)), "edge")
    assert np.abs(even.reshape(height, 2, width, 2, 3).mean((1, 3)) - half).mean() < 3
    assert _equal(half, _outcome(FILES[name], "pillow", _always))


def test_the_size_without_pillow() -> None:
    plain = {"plain", "odd size", "no subsampling", "half subsampling", "progressive", "restart markers", "grey"}
    plain |= {"grey, progressive", "coded as RGB", "with a profile", "narrow", "small", "smallest"}
    for name, data in FILES.items():
        with Image.open(io.BytesIO(data)) as image:
            assert jpeg.plain_size(data) == ((image.height, image.width) if name in plain else None), name
    start = FILES["plain"].index(b"\xff\xda")
    assert [jpeg.plain_size(FILES["plain"][:length]) for length in range(start + 1)] == [None] * (start + 1)
    assert jpeg.plain_size(_encoded(_picture(40, 60).convert("CMYK"))) is None
    assert jpeg.plain_size(_encoded(_picture(40, 60), xmp=b'tiff:Orientation="6"')) is None


@BOTH
def test_orientation_in_other_metadata(decoder: str) -> None:
    """Pillow finds it there, too."""
    data = _encoded(_picture(40, 60), xmp=b'<x:xmpmeta tiff:Orientation="6"/>')
    expected = _as_pillow_has_it(data)
    assert expected.shape == (60, 40, 3)
    assert _equal(_outcome(data, decoder), expected)


@BOTH
def test_what_is_asked_of_those_who_admit(decoder: str) -> None:
    asked = []

    def refuse(height: int, width: int) -> bool:
        asked.append((height, width))
        return False

    for name, size in (("odd size", (31, 42)), ("orientation 6", (35, 23)), ("orientation 1", (23, 35))):
        assert _equal(_outcome(FILES[name], decoder, refuse), _as_pillow_has_it(FILES[name]))
        assert asked.pop() == size
    assert not asked


@BOTH
def test_the_least_size_is_that_of_the_full_image(decoder: str) -> None:
    _use(decoder)
    assert decode(FILES["odd size"], min_size=61, admits=_always).shape == (31, 42, 3)
    with pytest.raises(BrokenImage, match="83x61 px"):
        decode(FILES["odd size"], min_size=62, admits=_always)


@BOTH
def test_only_jpeg_is_halved(decoder: str) -> None:
    _use(decoder)
    for image, file_format in ((_picture(40, 60), "PNG"), (_picture(40, 60).convert("CMYK"), "JPEG")):
        buffer = io.BytesIO()
        image.save(buffer, file_format)
        assert _equal(decode(buffer.getvalue(), admits=_always), _as_pillow_has_it(buffer.getvalue()))


def test_a_file_that_is_cut_anywhere() -> None:
    pytest.importorskip("simplejpeg")
    for name in ("plain", "progressive", "grey", "orientation 6"):
        data = FILES[name]
        for length in {*range(2, len(data), 37), *range(len(data) - 40, len(data))}:
            reason = _outcome(data[:length], "simplejpeg")
            assert isinstance(reason, str)
            assert reason
            assert reason == _outcome(data[:length], "pillow")


def _changed(rng: np.random.Generator, data: bytes) -> bytes:
    """One of: other bytes anywhere or in the header, bytes put in, bytes at the end."""
    spot, junk = int(rng.integers(2, len(data))), rng.integers(0, 256, rng.integers(1, 9), np.uint8).tobytes()
    in_header = int(rng.integers(2, min(len(data), 620)))
    kinds: list[Callable[[], bytes]] = [
        lambda: data[:spot] + junk[:3] + data[spot + 3 :],
        lambda: data[:in_header] + junk[:1] + data[in_header + 1 :],
        lambda: data[:spot] + junk + data[spot:],
        lambda: data + junk,
    ]
    return kinds[rng.integers(len(kinds))]()


def test_damaged_files_come_out_the_same() -> None:
    pytest.importorskip("simplejpeg")
    rng = np.random.default_rng(0)
    refused = 0
    for name in ("plain", "progressive", "grey", "restart markers", "coded as RGB", "orientation 6"):
        for _ in range(80):
            bad = _changed(rng, FILES[name])
            for admits in (None, _always):
                first, second = (_outcome(bad, decoder, admits) for decoder in jpeg.DECODERS)
                assert _equal(first, second)
                refused += isinstance(first, str)
    assert 50 < refused < 700


@BOTH
def test_huge_images_are_refused_before_anything_is_decoded(decoder: str) -> None:
    data = FILES["plain"]
    frame = data.index(b"\xff\xc0")
    huge = data[: frame + 5] + (30000).to_bytes(2, "big") * 2 + data[frame + 9 :]
    for admits in (None, _always):
        reason = _outcome(huge, decoder, admits)
        assert isinstance(reason, str)
        assert reason.startswith("more than")


def test_pillow_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("simplejpeg")

    def fail(*args: object, **options: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(library, "decode_jpeg", fail)
    assert _equal(_outcome(FILES["odd size"], "simplejpeg"), _as_pillow_has_it(FILES["odd size"]))
    assert _outcome(FILES["odd size"][:900], "simplejpeg") == _outcome(FILES["odd size"][:900], "pillow")


def test_the_fast_decoder_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg.use_decoder("pillow")
    assert jpeg.decoder() == "pillow"
    with pytest.raises(ValueError, match="decoder: got 'opencv'"):
        jpeg.use_decoder("opencv")
    library = pytest.importorskip("simplejpeg")
    jpeg.use_decoder(None)
    assert jpeg.decoder() == "simplejpeg"
    monkeypatch.setattr(library, "decode_jpeg", lambda *_, **__: np.zeros((61, 83, 3), np.uint8))
    assert not decode(FILES["odd size"]).any()
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    jpeg.use_decoder(None)
    assert jpeg.decoder() == "pillow"


def test_without_the_private_entry_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image, "_getencoder")
    monkeypatch.setattr(Image.Image, "tobytes", lambda image: bytes(image.width * image.height * 3))
    assert _equal(_outcome(FILES["odd size"], "pillow"), np.zeros((61, 83, 3), np.uint8))
