"""ImageNet: the layouts it has, and where the labels of its validation images come from."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinotrain.data.sources.folder import FolderSource
from dinotrain.data.sources.imagenet import ImageNetSource
from dinotrain.errors import UserError

WNIDS = ("n01440764", "n01443537", "n02084071")
STEMS = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 6)]
LABELS = [2, 0, 0, 1, 2]


def _put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 18)).save(root / name)


def _tree(root: Path) -> Path:
    """Training images in folders, validation images flat."""
    _put(root, *(f"train/{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS for number in (10, 9)))
    _put(root, *(f"val/{stem}.JPEG" for stem in STEMS))
    return root


def _labels(source: ImageNetSource) -> list[int]:
    test = source.test()
    assert test is not None
    assert test.labels is not None
    assert test.classes is not None
    assert test.classes[:3] == source.classes
    assert test.labels.dtype == np.int64
    assert test.image(0).shape == (18, 20, 3)
    return test.labels.tolist()


def test_folders_of_both_splits(tmp_path: Path) -> None:
    _tree(tmp_path)
    for stem in STEMS:
        (tmp_path / "val" / f"{stem}.JPEG").unlink()
    _put(tmp_path, f"val/{WNIDS[2]}/x.JPEG", f"val/{WNIDS[0]}/y.JPEG")
    source = ImageNetSource(root=tmp_path)
    assert len(source) == 6
    assert source.name(0) == "train/n01440764/n01440764_10.JPEG"
    assert source.classes == WNIDS
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert _labels(source) == [0, 2]
    assert source.fingerprint() == FolderSource(root=tmp_path).fingerprint()


FILES: dict[str, tuple[str, str]] = {
    "Kaggle": (
        "LOC_val_solution.csv",
        "ImageId,PredictionString\n"
        + "".join(f"{s},{WNIDS[n]} 1 2 3 4 {WNIDS[n]} 5 6 7 8 \n" for s, n in zip(STEMS[::-1], LABELS[::-1])),
    ),
    "wnids": ("val.txt", "".join(f"{s}.JPEG {WNIDS[n]}\n" for s, n in zip(STEMS, LABELS)) + "\nother.JPEG n01440764"),
    "ranks": ("val.txt", "".join(f"val/{s}.JPEG {n}\r\n" for s, n in zip(STEMS, LABELS))),
    "annotations": ("val/val_annotations.txt", "".join(f"{s}.JPEG\t{WNIDS[n]}\t0\t9\n" for s, n in zip(STEMS, LABELS))),
}


@pytest.mark.parametrize("kind", FILES)
def test_labels_of_flat_validation_images(tmp_path: Path, kind: str) -> None:
    name, text = FILES[kind]
    source = ImageNetSource(root=_tree(tmp_path / "set"))
    with pytest.warns(UserWarning, match=r"no labels for the images in .*/val, so there is no test split; data.val"):
        assert source.test() is None
    (tmp_path / name.rpartition("/")[2]).write_text(text)
    given = ImageNetSource(root=tmp_path / "set", val_labels=tmp_path / name.rpartition("/")[2])
    assert _labels(given) == LABELS
    (tmp_path / "set" / name).write_text(text)
    assert _labels(ImageNetSource(root=tmp_path / "set")) == LABELS


def _devkit(folder: Path, ids: list[int]) -> Path:
    """The ground truth of the development kit, whose numbers are neither ranks nor in their order."""
    savemat = pytest.importorskip("scipy.io").savemat
    folder.mkdir(parents=True, exist_ok=True)
    synsets = np.zeros((4, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")])
    for row, (number, wnid) in enumerate(zip((1, 2, 3, 4), (WNIDS[1], WNIDS[2], WNIDS[0], "n00000001"))):
        synsets[row, 0] = (float(number), wnid, "a, b", 0.0)
    savemat(folder / "meta.mat", {"synsets": synsets})
    file = folder / "ILSVRC2012_validation_ground_truth.txt"
    file.write_text("".join(f"{number}\n" for number in ids))
    return file


IDS = [2, 3, 3, 1, 2]


def test_the_development_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _tree(tmp_path / "set")
    file = _devkit(tmp_path / "kit", IDS)
    assert _labels(ImageNetSource(root=root, val_labels=file)) == LABELS
    _devkit(root / "ILSVRC2012_devkit_t12" / "data", IDS)
    assert _labels(ImageNetSource(root=root)) == LABELS
    imports = builtins.__import__

    def without_scipy(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("scipy"):
            raise ImportError(name)
        return imports(name, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(UserError, match=r"data.val_labels: .*meta.mat needs scipy: pip install scipy"):
        ImageNetSource(root=root, val_labels=file).test()
    with pytest.warns(UserWarning, match="needs scipy.*no test split"):
        assert ImageNetSource(root=root).test() is None


def test_the_tree_of_kaggle(tmp_path: Path) -> None:
    _tree(tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
    (tmp_path / "LOC_val_solution.csv").write_text(FILES["Kaggle"][1])
    # Numbers of images, and not of classes, as they come with it.
    lists = tmp_path / "ILSVRC" / "ImageSets" / "CLS-LOC"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("".join(f"{stem} {number}\n" for number, stem in enumerate(STEMS, 1)))
    (tmp_path / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn02084071 dog\nn09999999 other\n"
    )
    source = ImageNetSource(root=tmp_path)
    assert source.name(0) == "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10.JPEG"
    assert source.classes == ("n01440764 tench", "n01443537 goldfish", "n02084071 dog")
    assert _labels(source) == LABELS
    assert _labels(ImageNetSource(root=tmp_path / "ILSVRC", val_labels=tmp_path / "LOC_val_solution.csv")) == LABELS


def test_ranks_count_all_classes_where_these_are_known(tmp_path: Path) -> None:
    root = _tree(tmp_path)
    (root / "val.txt").write_text("".join(f"{stem}.JPEG {n}\n" for stem, n in zip(STEMS, [0, 1, 2, 3, 4])))
    wnids = ("n01440000", WNIDS[0], "n01441000", WNIDS[1], WNIDS[2])
    (root / "words.txt").write_text("".join(f"{wnid}\tname of {wnid}, other\n" for wnid in wnids))
    with pytest.raises(UserError, match=r"has the class 3, .*0..2$"):
        ImageNetSource(root=root).test()
    (root / "words.txt").rename(root / "LOC_synset_mapping.txt")
    test = ImageNetSource(root=root).test()
    assert test is not None
    assert test.labels is not None
    assert test.labels.tolist() == [3, 0, 4, 1, 2]
    assert test.classes == tuple(f"{w} name of {w}" for w in (*WNIDS, wnids[0], wnids[2]))


def test_a_nested_folder_of_validation_images_is_no_class(tmp_path: Path) -> None:
    root = _tree(tmp_path)
    (root / "val").rename(root / "images")
    (root / "val").mkdir()
    (root / "images").rename(root / "val" / "images")
    (root / "val" / "val_annotations.txt").write_text(FILES["annotations"][1])
    assert _labels(ImageNetSource(root=root)) == LABELS


def test_without_validation_images(tmp_path: Path) -> None:
    _put(tmp_path, *(f"train/{wnid}/1.JPEG" for wnid in WNIDS))
    assert ImageNetSource(root=tmp_path).test() is None


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no train": (
        lambda root: (root / "train").rename(root / "tran"),
        "has no folder train, nor ILSVRC/Data/CLS-LOC/tr",
    ),
    "other names": (lambda root: (root / "train" / WNIDS[1]).rename(root / "train" / "cat"), "holds the folder cat;"),
    "no folders": (lambda root: _put(root, "train/1.JPEG"), "holds images that are not in class folders"),
    "lacking": (
        lambda root: (root / "val.txt").write_text(f"{STEMS[0]}.JPEG 0\n"),
        f"has no label for {STEMS[1]}.JPEG",
    ),
    "no rank": (lambda root: (root / "val.txt").write_text(f"{STEMS[0]}.JPEG 3\n"), r"has the class 3, .*0..2"),
    "no wnid": (lambda root: (root / "val.txt").write_text(f"{STEMS[0]}.JPEG cat\n"), r"has the class cat, .*0..2"),
    "empty": (lambda root: (root / "val.txt").write_text("\n"), f"has no label for {STEMS[0]}.JPEG"),
    "short truth": (lambda root: _devkit(root, IDS[:4]), "has 4 lines for 5 images"),
    "no such id": (lambda root: _devkit(root, [9] * 5), r"meta.mat has no 9"),
    "no meta": (
        lambda root: (_devkit(root, IDS).parent / "meta.mat").unlink(),
        "goes with meta.mat, which is not besid",
    ),
    "no mat": (lambda root: (_devkit(root, IDS).parent / "meta.mat").write_text("x" * 300), "can't read .*meta.mat"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line(tmp_path: Path, case: str) -> None:
    root = _tree(tmp_path)
    spoil, words = REFUSED[case]
    spoil(root)
    with pytest.raises(UserError, match=words) as caught:
        ImageNetSource(root=root).test()
    assert str(caught.value).startswith("data.")
    assert "\n" not in str(caught.value)


def test_a_label_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.val_labels: .*labels.txt is no file"):
        ImageNetSource(root=_tree(tmp_path), val_labels=tmp_path / "labels.txt")
