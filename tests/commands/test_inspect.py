"""The command as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from picture_folder import BROKEN, scene, write_pictures
from PIL import Image
from real_runs import environment

from dinotrain.inspect import main

SMALL = (
    "crops=small_32",
    "augment=small",
    "model=vit_tiny",
    "model.image_size=32",
    "model.patch_size=8",
    "inspect.max_workers=2",
    "inspect.seconds=0.1",
)
"""Crops of 32 px, and the shortest measurements."""


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "dinotrain.inspect", *overrides]


def inspect(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*overrides), capture_output=True, text=True, timeout=600, env=environment(), cwd=folder
    )


def field(output: str, name: str) -> str:
    match = re.search(rf"^{name}  +(.*)$", output, re.MULTILINE)
    assert match, f"no line {name!r} in\n{output}"
    return match[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_pictures(root)
    return root


@pytest.fixture(scope="module")
def inspected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the results, and what was printed."""
    folder = tmp_path_factory.mktemp("inspected")
    words = ("data=folder", f"data.root={images}", *SMALL, "inspect.broken=lists/broken.txt", "inspect.pictures=4")
    done = inspect(folder, *words)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return folder, done.stdout


def test_the_set_is_described(inspected: tuple[Path, str], images: Path) -> None:
    _, output = inspected
    assert field(output, "images") == f"19 in {images}"
    assert field(output, "labels") == "2 classes, from dog (8) to cat (11)"
    assert field(output, "test split") == "none"


def test_files_are_counted_and_broken_ones_named(inspected: tuple[Path, str]) -> None:
    folder, output = inspected
    assert field(output, "read") == "all 19"
    assert field(output, "formats") == "JPEG 59 %, PNG 29 %, WEBP 12 %"
    assert field(output, "colours") == "RGB 59 %, CMYK 18 %, grey 18 %, palette 5.9 %"
    assert field(output, "width").split() == ["8", "60", "60", "60", "60"]
    assert field(output, "broken") == "4 of 19, 1 of them smaller than data.min_size"
    assert "training would stop: data.max_broken=0.01 allows 1" in output
    assert "  cat/empty.jpg: empty file\n" in output
    listed = dict(line.split("\t") for line in (folder / "lists" / "broken.txt").read_text().splitlines())
    assert listed.keys() == BROKEN


def test_the_picture_shows_crops_with_dark_masks(inspected: tuple[Path, str]) -> None:
    folder, output = inspected
    assert "inspection.png" in output
    picture = np.asarray(Image.open(folder / "inspection.png").convert("RGB")).astype(int)
    # Four rows of 224 px; the image, two global crops, and two columns of local crops of half their size.
    assert picture.shape == (24 + 62 + 4 * (27 + 230 + 26) - 26 + 24, 24 + 3 * 244 + 2 * 112 + 6 + 24, 3)
    body = picture[24 + 62 :]
    assert body.std() > 30
    rows = [body[27 + row * 283 : 27 + row * 283 + 224, 24 + 244 : 24 + 244 + 224] for row in range(4)]
    rows += [body[27 + row * 283 : 27 + row * 283 + 224, 24 + 488 : 24 + 488 + 224] for row in range(4)]
    # Half of the crops have masks: with lines of the grid, and between them much darker than the rest.
    masked = [crop for crop in rows if (crop == (104, 112, 134)).all(-1).sum() > 100]
    assert 2 <= len(masked) <= 6
    for crop in masked:
        patches = crop.reshape(4, 56, 4, 56, 3)[:, 4:-4, :, 4:-4].mean((1, 3, 4)).reshape(-1)
        assert np.sort(patches)[0] < 80


def test_workers_are_measured_and_the_training_command_is_given(inspected: tuple[Path, str], images: Path) -> None:
    _, output = inspected
    rows = re.findall(r"^([12]) +([\d,.]+) ", output, re.MULTILINE)
    assert [int(workers) for workers, _ in rows] == [1, 2]
    assert all(float(speed.replace(",", "")) > 0 for _, speed in rows)
    recommended = re.search(r"recommended: (runtime.workers=[12])", output)
    assert recommended
    last = output.rstrip().splitlines()[-1]
    assert last == f"  python -m dinotrain.train data=folder data.root={images} {' '.join(SMALL[:5])} {recommended[1]}"


def test_embedded_drawings_and_an_experiment(tmp_path: Path) -> None:
    """No keys but the experiment's; nothing is measured and no run folder made."""
    words = ("+experiment=quickstart", "data.source.length=200")
    done = inspect(tmp_path, *words, "inspect.images=100", "inspect.seconds=0", "inspect.pictures=2")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert field(done.stdout, "images") == "200 drawn by dinotrain itself"
    assert field(done.stdout, "labels") == "10 classes of 20"
    assert field(done.stdout, "read") == "100, drawn evenly over the set"
    assert field(done.stdout, "broken") == "none"
    assert done.stdout.endswith(f"\n  python -m dinotrain.train {' '.join(words)}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["inspection.png"]


def test_a_set_of_broken_files_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("not an image")
    assert main(["data=folder", f"data.root={tmp_path}", *SMALL]) == 1
    captured = capsys.readouterr()
    assert "broken  3 of 3" in captured.out
    assert captured.err.startswith("error: data.root: none of the 3 images that were read can be used (the first: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=folder"], "data.root is missing"),
        (["data=folder", "data.root=nowhere"], "does not exist"),
        (["data=embedded", "inspect.image=3"], "inspect.image: no such key; did you mean inspect.images?"),
        (["data=embedded", "inspect.images=0"], "inspect.images: got 0, expected at least 1"),
        (["data=embedded", "inspect.images=some"], "inspect.images: got 'some', expected a whole number or null"),
        (["data=embedded", "inspect.out=picture.txt"], "inspect.out: got 'picture.txt', expected a file name with"),
        (["data=embedded", "inspect.out=/proc/none/a.png"], "inspect.out: can't write to /proc/none/a.png"),
        (["data=embedded", "crops.global_size=100"], "crops.global_size: 100 px is not a multiple"),
        (["--fast"], "--fast: no such option"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_large_images_call_for_the_converter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        folder = os.fsencode(tmp_path / "images") + b"/caf\xe9" + b"x" * number  # a name that is no UTF-8
        os.mkdir(folder)
        for image in range(1 + number):
            scene(image).resize((300, 200)).save(os.path.join(os.fsdecode(folder), f"{image}.jpg"))
    assert main([f"{tmp_path}/images", *SMALL, "inspect.seconds=0", "inspect.pictures=0"]) == 0
    output = capsys.readouterr().out
    assert field(output, "labels") == "3 classes, from caf\\xe9 (1) to caf\\xe9xx (3)"
    assert (
        f"\n  python -m dinotrain.prepare data=folder data.root={tmp_path}/images out=DIR resize_short=64\n" in output
    )


def test_an_interrupt_ends_it_in_one_line(tmp_path: Path) -> None:
    words = ["+experiment=quickstart", "data.source.length=200", "inspect.pictures=0", "inspect.seconds=100"]
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("broken"):
            break
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    progress = ("Reading images: ", "Measuring throughput: ")
    assert [line for line in errors.splitlines() if not line.startswith(progress)] == ["stopped"]


def test_help_needs_nothing_heavy() -> None:
    heavy = "[m for m in ('torch', 'hydra', 'numpy') if m in sys.modules]"
    code = f"import sys, dinotrain.inspect as i; print(i.main(['--help']), {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip().splitlines()[-1] == "0 []"
    assert done.stdout.startswith("usage: python -m dinotrain.inspect ")
