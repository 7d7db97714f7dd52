"""Decoding: every mode and orientation to the right pixels, every kind of broken file to one line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode, read_file


def _picture(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, (x + y) * 4], axis=-1).astype(np.uint8)


def _encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _check_form(pixels: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "GIF", "JPEG", "JPEG2000"])
def test_formats(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 98, "subsampling": 0}
    pixels = decode(_encoded(Image.fromarray(_picture()), file_format, **(options if file_format != "GIF" else {})))
    _check_form(pixels)
    limit = {"JPEG": 4, "GIF": 40}.get(file_format, 0)
    assert np.abs(pixels.astype(int) - _picture()).max() <= limit


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes_are_as_pillow_has_them(mode: str) -> None:
    image = Image.fromarray(_picture()).convert(mode)
    pixels = decode(_encoded(image))
    _check_form(pixels)
    assert (pixels == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (24, 1))
    image = Image.fromarray(_picture()).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    pixels = decode(_encoded(image))
    _check_form(pixels)
    part = alpha[:, :, None] / 255
    expected = np.asarray(image.convert("RGB")) * part + 255 * (1 - part)
    assert np.abs(pixels - expected).max() <= 1
    assert (pixels[:, 0] == 255).all()
    assert (pixels[:, -1] == np.asarray(image.convert("RGB"))[:, -1]).all()


def test_transparent_palette_grey_and_colour() -> None:
    palette = Image.fromarray(_picture()).quantize(16)
    key = palette.getpixel((0, 0))
    transparent = np.asarray(palette) == key
    pixels = decode(_encoded(palette, transparency=key))
    assert (pixels[transparent] == 255).all()
    assert (pixels[~transparent] == np.asarray(palette.convert("RGB"))[~transparent]).all()
    grey = decode(_encoded(Image.fromarray(_picture()[:, :, 0]), transparency=60))
    assert (grey[:, 10] == 255).all()
    assert (grey[:, 11] == 66).all()
    colour = decode(_encoded(Image.fromarray(_picture()), transparency=(0, 0, 0)))
    assert colour[0, 0].tolist() == [255, 255, 255]
    assert colour[0, 1].tolist() == [6, 0, 4]


def test_cmyk_and_lab() -> None:
    cmyk = Image.fromarray(_picture()).convert("CMYK")
    pixels = decode(_encoded(cmyk, "TIFF"))
    _check_form(pixels)
    assert (pixels == np.asarray(cmyk.convert("RGB"))).all()
    near = decode(_encoded(cmyk, "JPEG", quality=98))
    assert np.abs(near.astype(int) - pixels).mean() < 4
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(_picture()), *profiles, outputMode="LAB")
    assert lab is not None
    assert np.abs(decode(_encoded(lab, "TIFF")).astype(int) - _picture()).mean() < 4


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(file_format: str) -> None:
    values = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    pixels = decode(_encoded(Image.fromarray(values), file_format))
    _check_form(pixels)
    assert (pixels == np.rint(values / 257)[:, :, None]).all()


def test_wide_and_floating_values_are_stretched() -> None:
    wide = np.linspace(-(10**6), 10**6, 24 * 40).reshape(24, 40).astype(np.int32)
    pixels = decode(_encoded(Image.fromarray(wide), "TIFF"))
    assert (pixels.min(), pixels.max()) == (0, 255)
    floating = np.linspace(-1, 3, 24 * 40).reshape(24, 40).astype(np.float32)
    floating[0, 0], floating[0, 1] = np.nan, np.inf
    pixels = decode(_encoded(Image.fromarray(floating), "TIFF"))
    _check_form(pixels)
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
    assert abs(int(pixels[12, 0, 0]) - 128) <= 2
    flat = np.full((20, 20), 7, np.float32)
    assert (decode(_encoded(Image.fromarray(flat), "TIFF")) == 0).all()


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation(file_format: str) -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = _encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, file_format: str) -> None:
    image = Image.fromarray(_picture())
    image.getexif()[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = _encoded(image, file_format, exif=image.getexif(), **options)
    with Image.open(io.BytesIO(data)) as again:
        expected = np.asarray(ImageOps.exif_transpose(again))
    pixels = decode(data)
    _check_form(pixels)
    assert pixels.shape[:2] == ((40, 24) if orientation >= 5 else (24, 40))
    assert (pixels == expected).all()


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff"])
def test_damaged_metadata_do_not_matter(exif: bytes) -> None:
    assert decode(_encoded(Image.fromarray(_picture()), "JPEG", exif=exif)).shape == (24, 40, 3)


def _noise_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return _encoded(Image.fromarray(noise), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"This is a text\nof two lines.", "not an image"),
        (_noise_jpeg()[:2000], "truncated"),
        (_noise_jpeg()[:20], ""),
        (_encoded(Image.fromarray(_picture()))[:60], ""),
        (_encoded(Image.new("L", (1, 1))), "1x1 px, smaller than a patch"),
        (_encoded(Image.new("L", (15, 400))), "15x400 px, smaller than a patch"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, ""),
        (b"GIF89a" + b"\xff" * 30, ""),
    ],
    ids=["empty", "text", "cut", "header", "png-cut", "1x1", "narrow", "png-zeros", "gif-junk"],
)
def test_broken_files(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenImage) as caught:
        decode(data, min_size=16)
    assert reason in caught.value.reason
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    assert "BytesIO" not in caught.value.reason


def test_postscript_is_not_run() -> None:
    """Pillow would start Ghostscript with whatever the file says."""
    with pytest.raises(BrokenImage, match="PostScript"):
        decode(_encoded(Image.fromarray(_picture()), "EPS"))


def test_damaged_files_break_in_no_other_way() -> None:
    rng = np.random.default_rng(1)
    for file_format in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "TGA", "JPEG2000", "PPM", "ICO", "DDS"):
        good = np.frombuffer(_encoded(Image.fromarray(_picture()), file_format), np.uint8)
        for _ in range(30):
            bad = good.copy()
            spots = rng.integers(0, min(len(bad), 300), 8)
            bad[spots] = rng.integers(0, 256, 8)
            with contextlib.suppress(BrokenImage):
                _check_form(decode(bad[: rng.integers(1, len(bad) + 1)].tobytes()))


def test_very_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _encoded(Image.fromarray(_picture()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow warns above it, and refuses above twice as many
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert decode(data).shape == (24, 40, 3)
    assert not seen
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 479)
    with pytest.raises(BrokenImage, match="more than 958 pixels"):
        decode(data)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (("x.jpg", "folder"), ("link.jpg", "No such file"), ("pipe.jpg", "not a regular file")):
        with pytest.raises(BrokenImage, match=reason):
            decode(read_file(str(tmp_path / name)))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_file_that_does_not_say_how_long_it_is() -> None:
    path = "/proc/self/mountinfo"
    assert os.stat(path).st_size == 0
    assert read_file(path) == Path(path).read_bytes()


def test_the_ending_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "really_png.jpg").write_bytes(_encoded(Image.fromarray(_picture())))
    assert (decode(read_file(str(tmp_path / "really_png.jpg"))) == _picture()).all()


def test_only_the_formats_that_are_asked_for_are_read() -> None:
    for file_format in ("PNG", "JPEG"):
        data = _encoded(Image.fromarray(_picture()), file_format)
        assert (decode(data, formats=["GIF", file_format]) == decode(data)).all()
        with pytest.raises(BrokenImage, match="not an image"):
            decode(data, formats=["GIF"])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_large_grey_images_are_as_small_ones(dtype: type) -> None:
    row = np.linspace(0, 65535, 1200).astype(dtype)
    small, large = (decode(_encoded(Image.fromarray(np.tile(row, (rows, 1))), "TIFF")) for rows in (2, 1100))
    assert (large == small[:1]).all()
    assert (small.min(), small.max()) == (0, 255)
