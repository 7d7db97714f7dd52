"""The embedding command as a user meets it: what it writes and prints, how it goes on, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from picture_folder import BROKEN, write_pictures
from PIL import Image
from real_runs import end, make_images, run_command, start_command

from dinotrain.embed import main
from dinotrain.embedding.parts import Parts

COMMON = ("num_heads=2", "device=cpu", "threads=1", "batch=4", "data.min_size=16")
GOOD = 15


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(tiny.backbone().state_dict(), path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """15 images, and four files that can't be used."""
    write_pictures(tmp_path / "pictures")
    return tmp_path / "pictures"


def embed(*words: object, status: int = 0) -> None:
    assert main([str(word) for word in words]) == status


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    embed(*words, status=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def command(*words: object, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    return [sys.executable, *launcher, "-m", "dinotrain.embed", *map(str, words)]


def test_a_row_per_readable_image(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "features.npz"
    embed(f"weights={weights}", f"images={pictures}", f"out={out}", "tokens=[cls,mean]", *COMMON)
    with np.load(out) as found:
        assert found["cls_1"].shape == found["mean_1"].shape == (GOOD, tiny.DIM)
        assert np.isfinite(found["cls_1"]).all()
        assert "cat/cmyk0.jpg" in found["name"]
        assert not BROKEN & set(found["name"].tolist())
        assert found["classes"].tolist() == ["cat", "dog"]
    skipped = (tmp_path / "new" / "features.npz.skipped.txt").read_text().splitlines()
    assert {line.partition("\t")[0] for line in skipped} == BROKEN
    printed = capsys.readouterr().out
    assert "4 of 19 images could not be read" in printed
    assert "cat/empty.jpg: empty file" in printed
    assert "images/s" in printed
    assert not list(tmp_path.glob("new/*.parts"))


def test_a_file_that_is_there_is_not_made_again(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"weights={weights}", f"images={pictures}", f"out={tmp_path / 'features.parquet'}", *COMMON)
    embed(*words)
    before = (tmp_path / "features.parquet").read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("dinotrain.commands.embedding._extracted", None)
        embed(*words, "--neighbours", pictures / "dog" / "1.png", "k=3")
    printed = capsys.readouterr().out
    assert "already done" in printed
    lines = [line.split() for line in printed.splitlines() if line.startswith("   ")]
    assert lines[0] == ["1.0000", "dog/1.png"]
    assert len(lines) == 3
    sheet = tmp_path / "features.parquet.neighbours_1.png"
    with Image.open(sheet) as image:
        assert image.width > 4 * 88
    line = refused(capsys, *words, "layers=[1,2]")
    assert "layers: [1] there, [1, 2] here" in line
    assert "again=true" in line
    assert "precision" not in line
    embed(*words, "layers=[1,2]", "again=true")
    assert (tmp_path / "features.parquet").read_bytes() != before
    embed(*words, "layers=[1]", "again=true")
    assert (tmp_path / "features.parquet").read_bytes() == before


def test_several_images_can_be_looked_for_at_once(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [pictures / "dog" / "1.png", pictures / "cat" / "grey0.jpg"]
    embed(
        *(f"weights={weights}", f"images={pictures}", f"out={tmp_path / 'features.npy'}", *COMMON),
        *("--neighbours", queries[0], f"neighbours={queries[1]}", "k=1"),
    )
    printed = capsys.readouterr().out
    assert "1.0000  dog/1.png" in printed
    assert "1.0000  cat/grey0.jpg" in printed
    assert (tmp_path / "features.npy.neighbours_1_and_1_more.png").exists()


@pytest.mark.parametrize("ending", ["parquet", "pt"])
def test_stopped_and_gone_on_with_is_the_same_to_the_byte(
    weights: Path,
    pictures: Path,
    tmp_path: Path,
    ending: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (f"weights={weights}", f"images={pictures}", "tokens=[cls,patches]", *COMMON)
    embed(*words, f"out={tmp_path / f'whole.{ending}'}")
    out = tmp_path / "some" / f"whole.{ending}"
    write = Parts.write

    def then_stop(self: Parts, number: int, piece: object) -> None:
        write(self, number, piece)  # type: ignore[arg-type]
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", then_stop)
        capsys.readouterr()
        embed(*words, f"out={out}", status=75)
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list(tmp_path.glob("some/*.parts/*.npz"))) == 2
    assert not out.exists()
    assert "size: 16 there, 8 here" in refused(capsys, *words, f"out={out}", "size=8")
    embed(*words, f"out={out}")
    assert "left to do" in capsys.readouterr().out
    assert out.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert not list(tmp_path.glob("some/*.parts"))


@pytest.mark.slow
def test_killed_and_gone_on_with_by_two_processes(weights: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 400)
    words = (f"weights={weights}", f"images={images}", *COMMON)
    run_command(command(*words, f"out={tmp_path / 'whole.npz'}"), tmp_path)
    out = tmp_path / "killed.npz"
    process = start_command(command(*words, f"out={out}"), tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed.npz.parts/*.npz"))) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    end(process, signal.SIGKILL)
    assert not out.exists()
    done = run_command(command(*words, f"out={out}", processes=2), tmp_path)
    assert "left to do" in done.stdout
    assert done.stdout.count("wrote ") == 1
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_names_that_are_no_text(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bilder =ü"
    make_images(folder, 2)
    os.rename(folder / "0000.png", os.fsencode(folder) + b"/caf\xe9.png")
    out = tmp_path / "größe [1].parquet"
    embed(f"weights={weights}", f"images={folder}", f"out={out}", *COMMON)
    from pyarrow import parquet

    assert parquet.read_table(out)["name"].to_pylist() == ["0001.png", "caf\\xe9.png"]
    capsys.readouterr()
    query = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    embed(f"weights={weights}", f"images={folder}", f"out={out}", *COMMON, "--neighbours", query)
    assert "1.0000  caf\\xe9.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("tokens=[clss]",), "tokens: got 'clss'; did you mean cls?"),
        (("tokens=[cls,cls]",), "tokens: got"),
        (("tokens=[]",), "tokens: got []"),
        (("layers=[0]",), "layers: got [0], expected a list of different numbers, 1 for the last block"),
        (("layers=[3]",), "layers: got 3, expected at most 2"),
        (("dtype=int8",), "dtype: got 'int8', expected float32 or float16"),
        (("size=18",), "size: 18 px is not a multiple of the patches of 4 px"),
        (("batch=0",), "batch: got 0"),
        (("k=0",), "k: got 0"),
        (("max_broken=0.1",), "max_broken: 4 of 19 images can't be read, more than a share of 0.1"),
        (("tokens=[patches]", "--neighbours", "x.png"), "neighbours: are found by CLS or mean patch tokens"),
        (("--neighbours", "missing.png"), "neighbours: missing.png: No such file or directory"),
        (("--neighbours",), "neighbours: got nothing"),
        (("photos",), "photos: expected key=value, as images=photos"),
        (("data=embedded",), "data=embedded: images="),
        (("sise=16",), "sise: no such key; did you mean size?"),
    ],
)
def test_mistakes_are_one_line(
    weights: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: tuple[str, ...],
    expected: str,
) -> None:
    words = (f"weights={weights}", f"images={pictures}", f"out={tmp_path / 'features.npz'}", *COMMON)
    assert expected in refused(capsys, *words, *changes)
    assert not (tmp_path / "features.npz").exists()


def test_places_that_are_of_no_use(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"weights={weights}", f"images={pictures}", *COMMON)
    assert "expected a file that ends in .parquet" in refused(capsys, *words, f"out={tmp_path / 'features'}")
    (tmp_path / "mine.npz").write_bytes(b"mine")
    assert "exists, and is none of this command" in refused(capsys, *words, f"out={tmp_path / 'mine.npz'}")
    line = refused(capsys, *words, f"out={tmp_path / 'mine.npz'}", "again=true")
    assert "exists, and is none of this command" in line
    assert (tmp_path / "mine.npz").read_bytes() == b"mine"
    line = refused(capsys, *words, f"out={tmp_path / 'mine.npz' / 'features.npz'}")
    assert line.startswith("out: can't write")
    (tmp_path / "folder.npz").mkdir()
    assert "exists, and is none of this command" in refused(capsys, *words, f"out={tmp_path / 'folder.npz'}")
    assert "images is missing" in refused(capsys, f"weights={weights}", f"out={tmp_path / 'features.npz'}")
    missing = f"images={tmp_path / 'nothing'}"
    assert "does not exist" in refused(capsys, f"weights={weights}", missing, f"out={tmp_path / 'features.npz'}")


def test_no_image_that_can_be_read(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in BROKEN:
        (tmp_path / "bad").mkdir(exist_ok=True)
        shutil.copy(pictures / name, tmp_path / "bad")
    line = refused(capsys, f"weights={weights}", f"images={tmp_path / 'bad'}", f"out={tmp_path / 'x.npz'}", *COMMON)
    assert line.startswith("images: none of the 4 can be read (the first: cut.jpg: ")


def test_the_configuration_is_printed(weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed(f"weights={weights}", f"images={pictures}", "out=x.npz", "--config")
    assert f"root: {pictures}" in capsys.readouterr().out


def test_the_record_names_weights_and_images(weights: Path, pictures: Path, tmp_path: Path) -> None:
    embed(f"weights={weights}", f"images={pictures}", f"out={tmp_path / 'x.pt'}", *COMMON, "dtype=float16")
    record = json.loads((tmp_path / "x.pt.json").read_text())
    assert record["weights"]["path"] == str(weights)
    assert record["data"]["images"] == 19
    assert record["columns"] == [{"name": "cls_1", "shape": [tiny.DIM]}]
    assert torch.load(tmp_path / "x.pt", weights_only=True)["cls_1"].dtype == torch.float16
