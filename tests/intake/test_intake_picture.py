"""Image files that anybody may have made: read as in training, or refused with a line of ours."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from image_files import animated, broken, encoded, pixels, png_header
from PIL import Image

from dinotrain.data import images
from dinotrain.intake.limits import Limits
from dinotrain.intake.picture import FIRST_FRAME, decode
from dinotrain.intake.refused import Refused, Why

LIMITS = Limits()


def refusal(data: bytes, limits: Limits = LIMITS) -> Refused:
    with pytest.raises(Refused) as caught:
        decode(data, limits)
    return caught.value


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(format="JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        encoded(),
        encoded(format="JPEG"),
        encoded(format="WEBP"),
        encoded(format="BMP"),
        encoded(format="TIFF"),
        encoded(format="PPM"),
        encoded(Image.fromarray(pixels()).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(pixels()).convert("RGBA")),
        encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)),
        encoded(Image.fromarray(pixels()).convert("P")),
        _turned(),
    ],
)
def test_pictures_are_those_of_training(data: bytes) -> None:
    picture = decode(data, LIMITS)
    assert np.array_equal(picture.pixels, images.decode(data))
    assert picture.note is None


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said() -> None:
    picture = decode(animated(), LIMITS)
    assert picture.note == FIRST_FRAME
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", broken())
def test_what_is_no_image_is_refused_in_words_of_ours(name: str) -> None:
    refused = refusal(broken()[name])
    assert refused.why is Why.BROKEN
    assert refused.reason.startswith(
        ("empty: 0 bytes", "not an image (JPEG, PNG", "a damaged image, or one that is cut")
    )


def test_files_that_start_other_programs_are_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*rest: object, **more: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", fail)
    assert "not an image" in refusal(broken()["postscript"]).reason


@pytest.mark.parametrize("side", [8_000, 20_000, 60_000])
def test_images_with_too_many_pixels_are_refused_by_their_header(side: int) -> None:
    refused = refusal(png_header(side, side))
    assert refused.why is Why.TOO_LARGE
    assert "more than 50 megapixels" in refused.reason


def test_the_limits_are_the_most_that_is_taken() -> None:
    data = encoded(Image.fromarray(pixels(100, 100)))
    assert decode(data, Limits(max_megapixels=0.01, max_mb=len(data) / 1e6)).pixels.shape == (100, 100, 3)
    assert refusal(data, Limits(max_megapixels=0.0099)).reason.startswith("100 x 100 px: more than 0.0099 megapixels")
    assert refusal(encoded(), Limits(max_mb=0.001)).reason == "more than 0.001 MB, the most that is taken"


def test_damaged_files_of_all_kinds_are_read_or_refused() -> None:
    generator = np.random.default_rng(0)
    small = Image.fromarray(pixels(8, 9))
    files = [encoded(small, name) for name in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]
    for turn in range(300):
        data = bytearray(files[turn % len(files)])
        for place in generator.integers(0, len(data), 1 + turn % 5):
            data[place] = generator.integers(256)
        data = bytes(data[: generator.integers(1, len(data) + 1)] if turn % 3 == 0 else data)
        # Nothing else is raised.
        with contextlib.suppress(Refused):
            decode(data, Limits(max_megapixels=1))


def test_limits_have_to_be_above_zero() -> None:
    with pytest.raises(ValueError, match="max_mb: got 0"):
        Limits(max_mb=0)


def test_cameras_previews_are_no_animation() -> None:
    out = io.BytesIO()
    frame = Image.fromarray(pixels())
    frame.save(out, "MPO", save_all=True, append_images=[frame.resize((10, 8))])
    assert decode(out.getvalue(), LIMITS).note is None


def _scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def test_jpeg_files_with_very_many_scans_are_refused() -> None:
    data = encoded(format="JPEG", progressive=True)
    assert np.array_equal(decode(data, LIMITS).pixels, images.decode(data))
    assert refusal(_scans(data, 200)).reason.startswith("a progressive JPEG of more than 100 scans")


def test_pillows_own_limit_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    refused = refusal(png_header(2000, 2000))
    assert refused.why is Why.TOO_LARGE
    assert refused.reason == "more than 2 megapixels, the most that is taken"
