"""The survey: what is read, and what is found in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from picture_folder import BROKEN, GOOD, HEIGHT, WIDTH, scene, write_pictures
from PIL import Image

from dinotrain.data.sources.embedded import EmbeddedSource
from dinotrain.data.sources.folder import FolderSource
from dinotrain.inspection.survey import PIXELS, Survey, spread, survey


def _silent(done: int) -> None:
    pass


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    root = tmp_path_factory.mktemp("images")
    write_pictures(root)
    return survey(FolderSource(root=root, min_size=16), None, _silent)


def test_one_image_of_every_equal_part_is_drawn() -> None:
    indices = spread(1003, 100)
    assert len(indices) == 100
    assert (indices * 100 // 1003 >= np.arange(100) - 1).all()
    bounds = np.arange(101) * 1003 // 100
    assert ((bounds[:-1] <= indices) & (indices < bounds[1:])).all()
    assert len(np.unique(indices % 10)) == 10
    assert (spread(1003, 100) == indices).all()


@pytest.mark.parametrize("count", [None, 7, 8])
def test_all_images_are_read_where_so_many_are_asked_for(count: int | None) -> None:
    assert spread(7, count).tolist() == list(range(7))


def test_formats_and_colours_are_counted(found: Survey) -> None:
    # The file that is cut short and the one that is too small still say what they are.
    assert dict(found.formats) == GOOD | {"JPEG": GOOD["JPEG"] + 1, "PNG": GOOD["PNG"] + 1}
    assert dict(found.modes) == {"RGB": 10, "CMYK": 3, "grey": 3, "palette": 1}


def test_broken_files_are_named_with_their_reasons(found: Survey) -> None:
    reasons = dict(found.broken)
    assert reasons.keys() == BROKEN
    assert reasons["cat/empty.jpg"] == "empty file"
    assert "data.min_size" in reasons["dog/thin.png"]
    assert found.too_small == 1
    assert (found.read, found.total, found.complete) == (19, 19, True)
    assert found.broken_share() == (4 / 19, 4 / 19)


def test_sizes_are_those_of_the_files(found: Survey) -> None:
    assert sorted(set(zip(found.widths.tolist(), found.heights.tolist()))) == [(0, 0), (8, 100), (WIDTH, HEIGHT)]
    assert (found.sizes > 0).sum() == 18


def test_sides_are_those_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(0).save(tmp_path / "turned.jpg", exif=exif)
    turned = survey(FolderSource(root=tmp_path), None, _silent)
    assert (turned.widths.item(), turned.heights.item()) == (HEIGHT, WIDTH)


def test_images_in_memory_have_no_files() -> None:
    done: list[int] = []
    drawn = survey(EmbeddedSource(length=300, size=16), 100, done.append)
    assert dict(drawn.formats) == {PIXELS: 100}
    assert not drawn.sizes.any()
    assert not drawn.broken
    assert not drawn.complete
    assert done == [64, 100]


def test_the_share_of_broken_images_is_given_with_its_uncertainty(found: Survey) -> None:
    unknown = np.zeros(100, np.int64)
    many = replace(found, total=10**6, widths=unknown, heights=unknown, sizes=unknown)
    ten = replace(many, broken=found.broken * 2 + found.broken[:2])
    assert ten.broken_share() == pytest.approx((0.0552, 0.1744), abs=1e-4)  # Wilson's interval of 10 in 100
    assert replace(many, broken=()).broken_share() == pytest.approx((0, 0.0370), abs=1e-4)
