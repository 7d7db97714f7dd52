from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from preparing.image_sets import encoded, picture

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import decode
from dinotrain.data.source import Source
from dinotrain.preparing.conversion import Conversion, Converted, Look, shrink


class Given(Source):
    """Files, or pixels, as they are given."""

    def __init__(self, *images: bytes | np.ndarray | BrokenImage) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> bytes | np.ndarray:
        image = self._images[index]
        if isinstance(image, BrokenImage):
            raise image
        return image

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "given"


def convert(image: bytes | np.ndarray | BrokenImage, **options: object) -> Converted:
    return Conversion(**options)(Given(image), 0)  # type: ignore[arg-type]


def test_small_images_are_kept_byte_for_byte() -> None:
    data = encoded(picture(0))
    kept = convert(data, resize_short=90)
    assert kept.data == data
    assert (kept.extension, kept.format, kept.size_in, kept.size_out) == ("jpg", "JPEG", (120, 90), (120, 90))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_large_images_are_shrunk_to_jpeg(format: str) -> None:
    pixels = picture(0, 400, 300)
    shrunk = convert(encoded(pixels, format), resize_short=100, quality=95)
    assert (shrunk.extension, shrunk.size_in, shrunk.size_out) == ("jpg", (400, 300), (133, 100))
    with Image.open(io.BytesIO(shrunk.data)) as image:
        assert (image.format, image.size) == ("JPEG", (133, 100))
    wanted = np.asarray(Image.fromarray(pixels).resize((133, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode(shrunk.data) - wanted).mean() < 2.5


def test_the_camera_is_turned_before_shrinking() -> None:
    upright = picture(3, 200, 400)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(np.rot90(upright))
    shrunk = convert(encoded(turned, quality=95, exif=exif), resize_short=100)
    assert (shrunk.size_in, shrunk.size_out) == ((200, 400), (100, 200))
    assert np.abs(decode(shrunk.data).astype(int) - shrink(upright, 100)).mean() < 3
    with Image.open(io.BytesIO(shrunk.data)) as image:
        assert not image.getexif()


def test_shrinking_is_that_of_pillow_to_a_level() -> None:
    pixels = picture(1, 301, 203)
    wanted = np.asarray(Image.fromarray(pixels).resize((148, 100), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(shrink(pixels, 100) - wanted).max() <= 1


def test_very_long_images_keep_a_side_of_at_least_one_pixel() -> None:
    assert shrink(picture(0, 900, 3), 1).shape == (1, 300, 3)


def test_pixels_become_png_or_when_shrunk_jpeg() -> None:
    pixels = picture(0)
    kept = convert(pixels)
    assert (kept.extension, kept.format, kept.bytes_in) == ("png", "pixels", pixels.nbytes)
    assert np.array_equal(decode(kept.data), pixels)
    assert convert(pixels, resize_short=45).extension == "jpg"


def test_broken_images_say_why() -> None:
    whole = encoded(picture(0, 300, 200))
    reasons = [convert(image).reason for image in (b"", b"text", whole[: len(whole) // 2], BrokenImage("gone"))]
    assert all(reasons)
    assert reasons[0] == "empty file"
    assert reasons[-1] == "gone"
    assert Look()(Given(whole[: len(whole) // 2]), 0).reason


def test_without_verification_only_the_header_counts() -> None:
    data = encoded(picture(0, 300, 200))
    cut = data[: len(data) // 2]
    assert convert(cut, verify=False).data == cut
    assert convert(cut, verify=False, resize_short=100).reason
    assert convert(b"text", verify=False).reason


@pytest.mark.parametrize(
    ("format", "extension"), [("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"), ("PPM", "ppm"), ("TGA", "tga")]
)
def test_the_extension_says_what_a_file_really_is(format: str, extension: str) -> None:
    assert convert(encoded(picture(0), format)).extension == extension


def test_a_look_does_not_depend_on_the_conversion() -> None:
    data = encoded(picture(0, 600, 500), quality=95)
    look = Look()(Given(data), 0)
    assert look.data == b""
    assert (look.size_in, look.bytes_in) == ((600, 500), len(data))
    assert look.digest == convert(data).digest
    again = Look()(Given(convert(data, resize_short=200).data), 0)
    assert look.hash is not None
    assert again.hash is not None
    assert bin(look.hash ^ again.hash).count("1") <= 4
