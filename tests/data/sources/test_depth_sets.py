"""Depth in folders, NYU and SUN RGB-D: units, layouts and bits to the pixel, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dense_trees import HEIGHT, WIDTH, write_image, write_values
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.sources.depth_folder import DepthFolderSource
from dinotrain.data.sources.nyu import EIGEN_CROP, NyuSource
from dinotrain.data.sources.sunrgbd import SunRgbdSource
from dinotrain.errors import UserError


def steps(seed: int, *, most: int = 9000, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Numbers of 16 bits from 500, the first of them 0."""
    values = np.random.default_rng(seed).integers(500, most, size, np.uint16)
    values[0, 0] = 0
    return values


def tree(root: Path, count: int = 3, images: str = "images", depth: str = "depth") -> list[np.ndarray]:
    for index in range(count):
        write_image(root / images / f"{index}.jpg", index)
    return [write_values(root / depth / f"{index}.png", steps(index)) for index in range(count)]


@pytest.mark.parametrize(("unit", "metres"), [("mm", 1e-3), ("cm", 1e-2), ("m", 1.0), (0.0002, 0.0002), (2, 2.0)])
def test_units(tmp_path: Path, unit: Any, metres: float) -> None:
    values = tree(tmp_path)
    source = DepthFolderSource(root=tmp_path, unit=unit, max_depth=1e5)
    assert (len(source), source.targets, source.classes, source.evaluation_crop) == (3, ("depth",), None, None)
    assert source.max_depth == 1e5
    for index, stored in enumerate(values):
        image, depth = source.pair(index, "depth")
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(depth, (stored * metres).astype(np.float32))
        assert depth[0, 0] == 0
    with pytest.raises(UserError, match=r"images/0\.jpg has no mask, only depth"):
        source.mask(0)


def test_what_is_unknown_or_too_far_is_zero(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", size=(2, 4))
    (tmp_path / "depth").mkdir()
    values = np.array([[1.5, 0, -2, np.nan], [np.inf, 5.0, 5.001, 4.25]], np.float32)
    np.save(tmp_path / "depth" / "a.npy", values)
    source = DepthFolderSource(root=tmp_path, unit="m", max_depth=5)
    assert source.depth(0).tolist() == [[1.5, 0, 0, 0], [0, 5, 0, 4.25]]
    assert DepthFolderSource(root=tmp_path, unit="m").max_depth == pytest.approx(5.001)


def test_arrays_and_floating_point(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(1, 9, (HEIGHT, WIDTH)).astype(np.float32)
    names = ("a.npy", "b.npz", "c.npz", "d.tif", "e.npy")
    for name in names:
        write_image(tmp_path / "images" / f"{name[0]}.png")
    depth = tmp_path / "depth"
    depth.mkdir()
    np.save(depth / "a.npy", values[..., None].astype(np.float64))
    np.savez(depth / "b.npz", values)
    np.savez(depth / "c.npz", depth=values, sure=values * 0)
    Image.fromarray(values).save(depth / "d.tif")
    np.save(depth / "e.npy", values[None].astype(np.float16))
    source = DepthFolderSource(root=tmp_path, unit="m", max_depth=10)
    for index in range(4):
        np.testing.assert_array_equal(source.depth(index), values)
    np.testing.assert_array_equal(source.depth(4), values.astype(np.float16))
    np.savez(depth / "b.npz", one=values, two=values)
    with pytest.raises(UserError, match=r"depth/b\.npz holds one, two, expected `depth`"):
        source.depth(1)
    np.save(depth / "a.npy", np.zeros((3, 4, 5)))
    with pytest.raises(
        UserError, match=r"depth/a\.npy holds an array of shape \[3, 4, 5\], expected \[height, width\]"
    ):
        source.depth(0)
    np.save(depth / "a.npy", np.zeros((HEIGHT, WIDTH), complex))
    with pytest.raises(UserError, match=r"depth/a\.npy holds complex128, expected numbers"):
        source.depth(0)
    (depth / "e.npy").write_bytes((depth / "e.npy").read_bytes()[:130])
    with pytest.raises(BrokenImage, match=r"^depth/e\.npy: "):
        source.depth(4)


def test_splits_have_one_unit_and_one_limit(tmp_path: Path) -> None:
    tree(tmp_path, 3, "train/images", "train/depth")
    values = tree(tmp_path, 2, "test/images", "test/depth")
    write_values(tmp_path / "train" / "depth" / "2.png", np.full((HEIGHT, WIDTH), 7000, np.uint16))
    write_values(tmp_path / "train" / "depth" / "1.png", np.full((HEIGHT, WIDTH), 600, np.uint16))
    write_values(tmp_path / "train" / "depth" / "0.png", np.full((HEIGHT, WIDTH), 600, np.uint16))
    source = DepthFolderSource(root=tmp_path, unit="mm")
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test()) == (3, 2, None)
    assert source.max_depth == test.max_depth == 7.0
    np.testing.assert_array_equal(
        test.depth(1), np.where(values[1] <= 7000, (values[1] * 1e-3).astype(np.float32), np.float32(0))
    )


@pytest.mark.parametrize("unit", [None, "inch", 0, -1.0, True, "0.001"])
def test_a_unit_must_be_given(tmp_path: Path, unit: Any) -> None:
    tree(tmp_path)
    with pytest.raises(
        ValueError, match=r"^unit: got .*, must be mm, cm, m, or the metres of one step, such as 0.0002"
    ):
        DepthFolderSource(root=tmp_path, unit=unit)


def test_a_unit_that_can_not_be_right(tmp_path: Path) -> None:
    tree(tmp_path)
    message = r"^data\.unit: with m the depth of depth/0\.png and others is about \d+.* m, expected 0\.02 to 10 m"
    with pytest.raises(UserError, match=message):
        DepthFolderSource(root=tmp_path, unit="m", max_depth=10)
    with pytest.raises(UserError, match=r"^data\.unit: with m the greatest depth is \d+ m, expected up to 1000 m; is"):
        DepthFolderSource(root=tmp_path, unit="m")
    for index in range(3):
        np.save(tmp_path / "depth" / f"{index}.npy", np.full((HEIGHT, WIDTH), 2.5))
        (tmp_path / "depth" / f"{index}.png").unlink()
    with pytest.raises(
        UserError, match=r"^data\.unit: with mm the depth .* is about 0\.0025 m, expected .* another one\?"
    ):
        DepthFolderSource(root=tmp_path, unit="mm", max_depth=10)


def test_depth_of_eight_bits(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0.png")
    values = write_values(tmp_path / "depth" / "0.png", steps(0, most=60000).astype(np.uint8))
    with pytest.raises(
        UserError, match=r"depth/0\.png has 8 bits, which is no measured depth; expected a PNG of 16 bits"
    ):
        DepthFolderSource(root=tmp_path, unit="cm", max_depth=10)
    source = DepthFolderSource(root=tmp_path, unit=0.04, max_depth=20)
    np.testing.assert_array_equal(source.depth(0), (values * 0.04).astype(np.float32))


def test_other_sizes_and_missing_files(tmp_path: Path) -> None:
    tree(tmp_path)
    write_values(tmp_path / "depth" / "2.png", steps(0, size=(3, 4)))
    source = DepthFolderSource(root=tmp_path, unit="mm")
    with pytest.raises(UserError, match=r"^data\.root: depth/2\.png is 4x3 px, its image images/2\.jpg 8x6 px$"):
        source.pair(2, "depth")
    write_image(tmp_path / "depth" / "1.png")
    with pytest.raises(UserError, match=r"depth/1\.png holds colours"):
        source.depth(1)
    (tmp_path / "depth" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 3 images in .* have no depth file in .*/depth; the first is 1\.jpg"):
        DepthFolderSource(root=tmp_path, unit="mm")
    with pytest.raises(UserError, match=r"has no folder pictures; expected pictures and depth in it"):
        DepthFolderSource(root=tmp_path, unit="mm", images="pictures")
    with pytest.raises(ValueError, match=r"^max_depth: got 0, must be above 0 metres"):
        DepthFolderSource(root=tmp_path, unit="mm", max_depth=0)


VGA = (480, 640)


def frame(folder: Path, number: int, *, size: tuple[int, int] = VGA) -> np.ndarray:
    write_image(folder / f"rgb_{number:05d}.jpg", number, size=size)
    return write_values(folder / f"sync_depth_{number:05d}.png", steps(number, most=11000, size=size))


def metres(values: np.ndarray, most: int = 10000) -> np.ndarray:
    return np.where(values <= most, (values * 1e-3).astype(np.float32), np.float32(0))


def test_nyu_by_lists(tmp_path: Path) -> None:
    train = frame(tmp_path / "sync" / "kitchen_0028b", 45)
    test_values = frame(tmp_path / "official_splits" / "test" / "bathroom", 46)
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text(
        "/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579\n"
        "/kitchen_0028b/rgb_00099.jpg None 518.8579\n"
    )
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mine.txt").write_text("bathroom/rgb_00046.jpg bathroom/sync_depth_00046.png 518.8579\n")
    source = NyuSource(root=tmp_path, test_list=tmp_path / "lists" / "mine.txt")
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test()) == (1, 1, None)
    assert source.name(0) == "sync/kitchen_0028b/rgb_00045.jpg"
    assert test.target_name(0, "depth") == "official_splits/test/bathroom/sync_depth_00046.png"
    np.testing.assert_array_equal(source.pair(0, "depth")[1], metres(train))
    np.testing.assert_array_equal(test.depth(0), metres(test_values))
    assert [skipped.name for skipped in source.left_out] == ["kitchen_0028b/rgb_00099.jpg"]
    assert (source.max_depth, source.evaluation_crop) == (10.0, (45, 471, 41, 601))
    top, bottom, left, right = EIGEN_CROP
    assert source.depth(0)[top:bottom, left:right].shape == (426, 560)


@pytest.mark.parametrize(("train", "test"), [("official_splits/train", "official_splits/test"), ("sync", "val")])
def test_nyu_by_folders(tmp_path: Path, train: str, test: str) -> None:
    values = [frame(tmp_path / train / "kitchen", number) for number in (1, 2)]
    frame(tmp_path / test / "bathroom", 3)
    write_image(tmp_path / train / "kitchen" / "other.jpg")
    source = NyuSource(root=tmp_path)
    tested = source.test()
    assert tested is not None
    assert (len(source), len(tested)) == (2, 1)
    np.testing.assert_array_equal(source.depth(1), metres(values[1]))
    assert NyuSource(root=tmp_path, max_depth=5).depth(0).max() <= 5


def test_nyu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.root: no NYU Depth v2 in .*, expected nyudepthv2_train_files_with_gt"):
        NyuSource(root=tmp_path)
    frame(tmp_path / "sync" / "a", 1)
    source = NyuSource(root=tmp_path)
    assert source.test() is None
    (tmp_path / "nyu_test.txt").write_text("a/rgb_00001.jpg\n")
    with pytest.raises(
        UserError, match=r"^data\.test_list: .*nyu_test\.txt has the line 'a/rgb_00001\.jpg', expected im"
    ):
        source.test()
    (tmp_path / "nyu_test.txt").write_text("a/rgb_00009.jpg a/sync_depth_00009.png 518\n")
    with pytest.raises(
        UserError, match=r"2 of the 2 files named in .*nyu_test\.txt are missing; the first is .*/a/rgb_0"
    ):
        source.test()
    (tmp_path / "nyu_test.txt").write_text("")
    with pytest.raises(UserError, match=r"no images in .*nyu_test\.txt"):
        source.test()
    with pytest.raises(UserError, match=r"^data\.train_list: .*none\.txt is no file"):
        NyuSource(root=tmp_path, train_list=tmp_path / "none.txt")
    frame(tmp_path / "sync" / "a", 1, size=(240, 320))
    with pytest.raises(UserError, match=r"sync_depth_00001\.png is 320x240 px, expected 640x480"):
        source.pair(0, "depth")
    (tmp_path / "sync" / "a" / "sync_depth_00001.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 1 images in .*/sync have no depth file sync_depth_\*\.png"):
        NyuSource(root=tmp_path)


SCENES = ("kv1/NYUdata/NYU0001", "kv2/kinect2data/000002_2014-05-26", "xtion/sun3ddata/mit/lab/0000103-000003450115")


def sunrgbd(root: Path) -> list[np.ndarray]:
    """The scenes' depth in millimetres."""
    found = []
    for index, scene in enumerate(SCENES):
        folder = root / "SUNRGBD" / scene
        write_image(folder / "image" / f"{index:07d}.jpg", index)
        write_image(folder / "fullres" / f"{index:07d}.jpg", index)
        millimetres = steps(index, most=12000)
        found.append(millimetres)
        write_values(folder / "depth_bfx" / f"{index:07d}_abs.png", (millimetres << 3) | (millimetres >> 13))
        write_values(folder / "depth" / f"{index:07d}.png", millimetres)
    return found


def test_sunrgbd_without_splits(tmp_path: Path) -> None:
    values = sunrgbd(tmp_path)
    assert max(part.max() for part in values) > 8191  # some lose a bit unless it comes back at the other end
    for root in (tmp_path, tmp_path / "SUNRGBD"):
        source = SunRgbdSource(root=root)
        assert (len(source), source.test(), source.max_depth) == (3, None, 10.0)
        for index, stored in enumerate(values):
            np.testing.assert_array_equal(source.pair(index, "depth")[1], metres(stored))
    assert source.name(0) == f"SUNRGBD/{SCENES[0]}/image/0000000.jpg"
    assert SunRgbdSource(root=tmp_path, max_depth=8).depth(0).max() <= 8
    with pytest.raises(UserError, match=r"^data\.splits: no allsplit\.mat in .*, expected it for the test split"):
        SunRgbdSource(root=tmp_path, split="test")


def test_sunrgbd_with_splits(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    values = sunrgbd(tmp_path)
    file = tmp_path / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    file.parent.mkdir(parents=True)
    cells = np.array([f"/n/fs/sun3d/data//SUNRGBD/{scene}/" for scene in SCENES], object)
    savemat(file, {"alltrain": cells[None, [2, 0]], "alltest": cells[None, [1]]})
    source = SunRgbdSource(root=tmp_path)
    test = source.test()
    assert test is not None
    assert (len(source), len(test), test.test()) == (2, 1, None)
    np.testing.assert_array_equal(source.depth(0), metres(values[2]))
    np.testing.assert_array_equal(test.depth(0), metres(values[1]))
    (tmp_path / "SUNRGBD" / SCENES[1] / "image" / "0000001.jpg").unlink()
    with pytest.raises(
        UserError, match=rf"1 of 1 scenes in .*allsplit\.mat are missing; the first is SUNRGBD/{SCENES[1]}"
    ):
        SunRgbdSource(root=tmp_path).test()
    file.write_bytes(b"words")
    with pytest.raises(UserError, match=r"^data\.splits: .* is no allsplit\.mat of SUNRGBDtoolbox"):
        SunRgbdSource(root=tmp_path)


def test_sunrgbd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.root: .* is not SUNRGBD and has no such folder, expected one of them"):
        SunRgbdSource(root=tmp_path)
    (tmp_path / "SUNRGBD").mkdir()
    with pytest.raises(UserError, match=r"no SCENE/image/\*\.jpg in .*, expected SUN RGB-D"):
        SunRgbdSource(root=tmp_path)
    sunrgbd(tmp_path)
    file = tmp_path / "SUNRGBD" / SCENES[0] / "depth_bfx" / "0000000_abs.png"
    write_values(file, np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(UserError, match=r"0000000_abs\.png holds uint8, expected 16 bits"):
        SunRgbdSource(root=tmp_path).depth(0)
    file.unlink()
    with pytest.raises(
        UserError, match=rf"1 of 3 scenes in .* have no depth_bfx/\*\.png; the first is SUNRGBD/{SCENES[0]}"
    ):
        SunRgbdSource(root=tmp_path)
    with pytest.raises(UserError, match=r"^data\.splits: .*none\.mat is no file"):
        SunRgbdSource(root=tmp_path, splits=tmp_path / "none.mat")
