"""Images per second and core of the input pipeline: ours against plain Pillow with the same augmentation.

    python benchmarks/loader.py
    python benchmarks/loader.py --root /data/photos --images 64 --json out.json

One process, one thread, both sides in turn on the same JPEG files, processor time. "crops" is what our data workers do:
read, decode, cut and resize 2 x 224 and 8 x 98 px to bytes. "photometric too" adds flip, colours, blur, solarize and
normalisation. "worker" sets our crops alone against all that plain Pillow does, for with a GPU the rest is done there.
Files are generated, or the first of those in a folder.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from dinotrain.data.crops import MultiCrop
from dinotrain.data.images import EXTENSIONS, decode, read_file
from dinotrain.data.order import sample_rng
from dinotrain.data.photometric import augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8


def ours(paths: list[Path], photometric: bool) -> None:
    """Batch by batch, as a worker and the device behind it do."""
    crops = MultiCrop()
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        globals_ = torch.empty(2, len(part), crops.global_size, crops.global_size, 3, dtype=torch.uint8)
        locals_ = torch.empty(crops.num_local, len(part), crops.local_size, crops.local_size, 3, dtype=torch.uint8)
        params = torch.empty(2 + crops.num_local, len(part), crops.num_params)
        for i, path in enumerate(part):
            image, rng = decode(read_file(str(path))), sample_rng(0, start + i)
            crops.into(image, rng, globals_[:, i], locals_[:, i], params[:, i])
        if photometric:
            augment(globals_.flatten(0, 1), params[:2].flatten(0, 1), mean=MEAN, std=STD)
            augment(locals_.flatten(0, 1), params[2:].flatten(0, 1), mean=MEAN, std=STD)


def plain(paths: list[Path], photometric: bool) -> None:
    """Crop by crop with Pillow, as one would first write it."""
    views = [(224, (0.32, 1.0), 1.0, 0.0), (224, (0.32, 1.0), 0.1, 0.2), *[(98, (0.05, 0.32), 0.5, 0.0)] * 8]
    for path in paths:
        image = Image.open(path).convert("RGB")
        for size, scale, blur, solarize in views:
            crop = image.crop(random_box(image, scale)).resize((size, size), Image.Resampling.BICUBIC)
            if photometric:
                plain_photometric(crop, blur, solarize)


def random_box(image: Image.Image, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random part of the image; all of it where none fits."""
    for _ in range(10):
        area = image.width * image.height * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if width <= image.width and height <= image.height:
            left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
            return left, top, left + width, top + height
    return 0, 0, image.width, image.height


def plain_photometric(crop: Image.Image, blur: float, solarize: float) -> torch.Tensor:
    if random.random() < 0.5:
        crop = ImageOps.mirror(crop)
    if random.random() < 0.8:
        changes = [plain_brightness, plain_contrast, plain_saturation, plain_hue]
        random.shuffle(changes)
        for change in changes:
            crop = change(crop)
    if random.random() < 0.2:
        crop = crop.convert("L").convert("RGB")
    if random.random() < blur:
        crop = plain_blur(crop, random.uniform(0.1, 2.0))
    if random.random() < solarize:
        crop = ImageOps.solarize(crop, 128)
    x = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float().div(255)
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def plain_brightness(crop: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(crop).enhance(random.uniform(0.6, 1.4))


def plain_contrast(crop: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(crop).enhance(random.uniform(0.6, 1.4))


def plain_saturation(crop: Image.Image) -> Image.Image:
    return ImageEnhance.Color(crop).enhance(random.uniform(0.8, 1.2))


def plain_hue(crop: Image.Image) -> Image.Image:
    hue, saturation, value = crop.convert("HSV").split()
    turned = np.asarray(hue) + np.array(int(random.uniform(-0.1, 0.1) * 255) % 256, np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def plain_blur(crop: Image.Image, sigma: float) -> Image.Image:
    """9 x 9 taps at once; Pillow's own Gaussian is an approximation by boxes."""
    line = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / sigma).square())
    kernel = torch.outer(line, line) / line.sum() ** 2
    x = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float()
    x = F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), kernel.expand(3, 1, 9, 9), groups=3)
    return Image.fromarray(x.round()[0].permute(1, 2, 0).to(torch.uint8).numpy())


def write_photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """JPEG files with a falling spectrum like that of photographs, and some grain, about as large as real ones."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height)) ** 1.6
    paths = []
    for number in range(count):
        planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) * amplitude) for _ in range(4)]
        light, *colours = (plane[:height] / plane.std() for plane in planes)
        pixels = np.stack([128 + 50 * light + 18 * colour for colour in colours], -1)
        pixels += rng.normal(0, 3, (height, width, 1))
        paths.append(folder / f"{width}x{height}_{number}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def measure(paths: list[Path], repeats: int) -> dict[str, list[float]]:
    """Milliseconds per image of each variant, one number per repeat; a first round is not counted."""
    times: dict[str, list[float]] = {}
    for round_ in range(repeats + 1):
        for stage, photometric in (("crops", False), ("photometric too", True)):
            for side in (ours, plain):
                ms = _timed(side, paths, photometric)
                if round_:
                    times.setdefault(f"{stage}, {side.__name__}", []).append(ms)
    return times


def _timed(side: Callable[[list[Path], bool], None], paths: list[Path], photometric: bool) -> float:
    start = time.process_time()
    side(paths, photometric)
    return 1000 * (time.process_time() - start) / len(paths)


def report(name: str, times: dict[str, list[float]]) -> None:
    print(f"{name}\n{'':<24}{'ours':>20}{'plain Pillow':>20}{'ratio':>8}   ms/image (images/s)")
    lines = {
        "crops": ("crops",) * 2,
        "photometric too": ("photometric too",) * 2,
        "worker": ("crops", "photometric too"),
    }
    for line, (our_stage, plain_stage) in lines.items():
        mine, theirs = (statistics.median(times[key]) for key in (f"{our_stage}, ours", f"{plain_stage}, plain"))
        cells = "".join(f"{f'{ms:.2f} ({1000 / ms:.0f})':>20}" for ms in (mine, theirs))
        print(f"{line:<24}{cells}{theirs / mine:>7.1f}x")


def image_sets(args: argparse.Namespace, folder: Path) -> dict[str, list[Path]]:
    if args.root is None:
        sizes = [tuple(map(int, size.split("x"))) for size in args.sizes]
        return {f"{w} x {h} px, generated": write_photographs(folder, w, h, args.images) for w, h in sizes}
    found = sorted(path for path in args.root.rglob("*") if path.suffix.lower() in EXTENSIONS)[: args.images]
    if not found:
        raise SystemExit(f"--root: no images in {args.root}")
    return {str(args.root): found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="take images from this folder instead of generated ones")
    parser.add_argument("--sizes", nargs="+", default=["500x375", "1500x1000"], help="of the generated images")
    parser.add_argument("--images", type=int, default=16, help="number of images per size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in image_sets(args, Path(folder)).items():
            kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1000
            results[name] = measure(paths, args.repeats)
            report(f"{name}, {len(paths)} files of {kilobytes:.0f} kB", results[name])
    if args.json:
        versions = {"torch": torch.__version__, "pillow": PIL.__version__}
        machine = platform.processor() or platform.machine()
        record = {"date": str(date.today()), "machine": machine, **versions, "ms_per_image": results}
        args.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
