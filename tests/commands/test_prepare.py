"""The command as a user runs it."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparing.image_sets import encoded, picture, write_folder

from dinotrain.commands.recognition import overrides_of
from dinotrain.data.images import decode
from dinotrain.data.sources.folder import FolderSource
from dinotrain.data.sources.shards import ShardSource
from dinotrain.prepare import main

SMALL = ("shard_size=41000", "workers=2")


def prepare(*words: str | Path, status: int = 0) -> None:
    assert main([str(word) for word in words]) == status


def start(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dinotrain.prepare", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures in three classes, among them three larger ones, a broken one and copies."""
    root = write_folder(tmp_path_factory.mktemp("images") / "set")
    (root / "class_0" / "broken.jpg").write_bytes((root / "class_0" / "003.jpeg").read_bytes()[:500])
    (root / "class_1" / "copy.jpg").write_bytes((root / "class_0" / "003.jpeg").read_bytes())
    pixels = picture(1, 300, 200)  # class_1/001.jpeg
    smaller = np.asarray(Image.fromarray(pixels).resize((150, 100), Image.Resampling.LANCZOS))
    (root / "class_2" / "smaller.jpg").write_bytes(encoded(smaller))
    (root / "class_2" / "worse.jpg").write_bytes(encoded(pixels, quality=50))
    return root


@pytest.fixture(scope="module")
def converted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "shards"
    prepare(images, f"out={out}", "resize_short=100", *SMALL)
    return out


def test_the_folder_holds_what_is_promised(converted: Path) -> None:
    names = {path.name for path in converted.iterdir()}
    assert {"summary.json", "contact_sheet.jpg", "failed.txt", "duplicates.txt"} < names
    shards = sorted(name for name in names if name.endswith(".tar"))
    assert len(shards) > 2
    assert shards == [f"shard-{number:06d}.tar" for number in range(len(shards))]
    assert {name.replace(".tar", ".index.npz") for name in shards} < names
    assert len(names) == 4 + 2 * len(shards)
    assert all((converted / name).stat().st_size <= 41_000 for name in shards)


def test_the_summary_counts(converted: Path) -> None:
    counted = summary(converted)
    assert counted["counts"] == {
        "looked_at": 28,
        "kept": 27,
        "shrunk": 4,
        "failed": 1,
        "duplicates_exact": 0,
        "duplicates_near": 0,
        "duplicates_of_another_class": 0,
        "left_out_of_the_listing": 0,
    }
    assert counted["classes"] == ["class_0", "class_1", "class_2"]
    assert counted["class_counts"] == [8, 9, 10]
    assert counted["formats_in"] == {"JPEG": 23, "PNG": 4}
    assert counted["sizes"]["short_in"]["max"] == 200
    assert counted["sizes"]["short_out"]["max"] == 100
    assert counted["short_side_histogram"]["out"] == {"64-95": 22, "96-127": 5}
    assert sum(shard["images"] for shard in counted["shards"]) == 27
    assert lines(converted / "failed.txt")[0][0] == "class_0/broken.jpg"


def test_our_source_reads_the_shards_back(images: Path, converted: Path) -> None:
    before, after = FolderSource(root=images), ShardSource(root=converted)
    assert after.classes == before.classes
    assert len(after) == 27
    places = {before.name(index): index for index in range(len(before))}
    for index in range(len(after)):
        name = after.name(index).split("/", 1)[1]
        original = before.read(places[name])
        assert after.labels is not None
        assert before.labels is not None
        assert after.labels[index] == before.labels[places[name]]
        if min(decode(original).shape[:2]) <= 100:
            assert after.read(index) == original
        else:
            assert min(after.image(index).shape[:2]) == 100


def test_the_index_says_what_the_headers_say(converted: Path, tmp_path: Path) -> None:
    with_index = ShardSource(root=converted)
    for path in converted.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    without = ShardSource(root=tmp_path)
    assert [without.read(index) for index in range(27)] == [with_index.read(index) for index in range(27)]
    assert without.labels is not None
    assert with_index.labels is not None
    assert without.labels.tolist() == with_index.labels.tolist()


def test_webdataset_reads_the_shards(images: Path, converted: Path) -> None:
    found = members(converted)
    keys = sorted({name.split(".")[0] for name in found})
    assert keys == [f"{number:09d}" for number in range(27)]
    assert list(found) == sorted(found)
    pytest.importorskip("webdataset")
    code = (
        "import glob, json, sys, webdataset; shards = sorted(glob.glob(sys.argv[1])); "
        "samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode('rgb8')); "
        "print(json.dumps([[s['__key__'], s['cls'], s['jpg' if 'jpg' in s else 'png'].shape] for s in samples]))"
    )
    # In a process of its own: it leaves files open.
    command = [sys.executable, "-W", "ignore", "-c", code, f"{converted}/*.tar"]
    samples = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
    assert [key for key, _, _ in samples] == keys
    assert [label for _, label, _ in samples].count(2) == 10
    assert all(shape[2] == 3 for _, _, shape in samples)


def test_shards_hold_several_classes_unless_they_are_not_mixed(images: Path, converted: Path, tmp_path: Path) -> None:
    def labels(folder: Path) -> list[int]:
        return [int(data) for name, data in members(folder).items() if name.endswith(".cls")]

    assert labels(converted) != sorted(labels(converted))
    prepare(images, f"out={tmp_path}/sorted", "shuffle=false", "limit=20", *SMALL)
    assert labels(tmp_path / "sorted") == [0] * 8 + [1] * 9 + [2] * 2


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_the_number_of_workers_does_not_matter(images: Path, tmp_path: Path, duplicates: str) -> None:
    for workers in (1, 3):
        words = (f"duplicates={duplicates}", "resize_short=100", "shard_size=41000", f"workers={workers}")
        prepare(images, f"out={tmp_path}/{workers}", *words)
    one, three = contents(tmp_path / "1"), contents(tmp_path / "3")
    # The heading of the contact sheet names the folder.
    assert one.pop("contact_sheet.jpg") != three.pop("contact_sheet.jpg")
    assert one == three


def test_exact_duplicates_are_dropped(images: Path, tmp_path: Path) -> None:
    prepare(images, f"out={tmp_path}/out", "duplicates=exact", *SMALL)
    ((dropped, kept, distance),) = lines(tmp_path / "out" / "duplicates.txt")
    assert {dropped, kept} == {"class_0/003.jpeg", "class_1/copy.jpg"}
    assert distance == "0"
    counts = summary(tmp_path / "out")["counts"]
    assert (counts["kept"], counts["duplicates_exact"], counts["duplicates_of_another_class"]) == (26, 1, 1)


def test_of_near_duplicates_the_largest_stays(images: Path, tmp_path: Path) -> None:
    prepare(images, f"out={tmp_path}/out", "duplicates=near", *SMALL)
    counts = summary(tmp_path / "out")["counts"]
    assert (counts["kept"], counts["duplicates_exact"], counts["duplicates_near"], counts["failed"]) == (24, 1, 2, 1)
    found = {dropped: kept for dropped, kept, _ in lines(tmp_path / "out" / "duplicates.txt")}
    assert found["class_2/smaller.jpg"] in ("class_1/001.jpeg", "class_2/worse.jpg")
    assert len({found["class_2/smaller.jpg"], "class_2/smaller.jpg"} | found.keys() & {"class_2/worse.jpg"}) >= 2
    assert any(side == 200 for side in summary(tmp_path / "out")["sizes"]["short_in"].values())


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_after_kills_at_any_moment_the_result_is_the_same(tmp_path: Path, duplicates: str) -> None:
    images = write_folder(tmp_path / "images", 240)
    (images / "class_0" / "broken.jpg").write_bytes(b"text")
    (images / "class_1" / "copy.jpg").write_bytes((images / "class_0" / "003.jpeg").read_bytes())
    words = (images, "resize_short=80", "shard_size=41000", "workers=2", f"duplicates={duplicates}")
    prepare(*words, f"out={tmp_path}/whole/shards")
    moments = random.Random(0)
    out = tmp_path / "killed" / "shards"
    seen = set()
    for _ in range(4):
        process = multiprocessing.get_context("fork").Process(target=prepare, args=(*words, f"out={out}"))
        process.start()
        enough = len(list(out.glob("*.tar"))) + moments.randint(1, 4)
        while len(list(out.glob("*.tar"))) < enough and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        seen.add(len(list(out.glob("*.tar"))))
    assert len(seen) > 1
    assert not (out / "summary.json").exists()
    prepare(*words, f"out={out}")
    assert contents(out) == contents(tmp_path / "whole" / "shards")


def test_a_stop_is_told_in_one_line_and_goes_on(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", 400)
    words = (images, "resize_short=80", "shard_size=41000", "workers=1", f"out={tmp_path}/out")
    process = start(*words)
    while not (tmp_path / "out" / "shard-000001.tar").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    (line,) = errors.strip().splitlines()
    assert "the same command goes on" in line
    prepare(*words)
    assert summary(tmp_path / "out")["counts"]["kept"] == 400
    assert not (tmp_path / "out" / ".prepare").exists()


def test_what_is_done_is_not_done_again(images: Path, converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(converted)
    prepare(images, f"out={converted}", "resize_short=100", "shard_size=41kB", "workers=1")
    assert "already done" in capsys.readouterr().out
    assert contents(converted) == before


def test_pixels_become_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(5), test_images=pixels[:2])
    prepare(tmp_path / "set.npz", f"out={tmp_path}/out", "shuffle=false")
    source = ShardSource(root=tmp_path / "out")
    assert all(np.array_equal(source.image(index), pixels[index]) for index in range(5))
    prepare(tmp_path / "set.npz", f"out={tmp_path}/test", "split=test", "labels=false")
    assert len(ShardSource(root=tmp_path / "test")) == 2
    assert not any(name.endswith(".cls") for name in members(tmp_path / "test"))


def test_shards_are_converted_to_shards(converted: Path, tmp_path: Path) -> None:
    prepare(converted, f"out={tmp_path}/again", "resize_short=50", "shard_size=1MB")
    again = ShardSource(root=tmp_path / "again")
    assert len(again) == 27
    assert again.classes == ("class_0", "class_1", "class_2")


def test_a_mixture_is_converted_once(images: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8))
    sources = f"[{{data: folder, root: '{images}', weight: 5}}, {{data: arrays, root: '{tmp_path}/set.npz'}}]"
    prepare("data=mix", f"data.sources={sources}", f"out={tmp_path}/out")
    assert summary(tmp_path / "out")["counts"]["looked_at"] == 33
    assert summary(tmp_path / "out")["source"]["roots"] == [str(images), f"{tmp_path}/set.npz"]


def test_a_single_image_in_a_folder_with_odd_letters(tmp_path: Path) -> None:
    folder = tmp_path / "mine, 'ours' = {x} \\ $y é"
    folder.mkdir()
    (folder / "a.b c.jpg").write_bytes(encoded(picture(0)))
    prepare(folder, f"out={tmp_path}/out")
    assert members(tmp_path / "out") == {"000000000.jpg": (folder / "a.b c.jpg").read_bytes()}
    with Image.open(tmp_path / "out" / "contact_sheet.jpg") as sheet:
        assert min(sheet.size) > 200


KINDS = {
    "https://example.org/a.tar?key=x/y": "shards",
    "s3://bucket/date=2024/set-{000000..000009}.tar": "shards",
    "hf://datasets/some/set/*.parquet": "parquet",
    "tars": "shards",
    "tars/a.tar": "shards",
    "nested": "parquet",
    "names.CSV": "list",
    "set.npz": "arrays",
    "saved": "hf",
    "pictures": "folder",
    "key=value": "folder",
}


@pytest.mark.parametrize("place", KINDS)
def test_the_kind_of_a_source_is_recognised(place: str, tmp_path: Path) -> None:
    files = ("tars/a.tar", "nested/data/a.parquet", "names.CSV", "set.npz", "pictures/a.jpg", "key=value/a.jpg")
    for name in (*files, "saved/state.json", "saved/dataset_info.json", "tars/readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = place if "://" in place else f"{tmp_path}/{place}"
    assert overrides_of(["quality=80", root]) == [f"data={KINDS[place]}", f"data.root='{root}'", "quality=80"]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_nothing_but_broken_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    prepare(tmp_path / "images", f"out={tmp_path}/out", status=1)
    assert "none of 1 images" in one_line(capsys)
    assert lines(tmp_path / "out" / "failed.txt") == [["a.jpg", "empty file"]]


MISTAKES = {
    "nothing there": (["/no/such"], ["/no/such does not exist"]),
    "no out": (["IMAGES"], ["out is missing"]),
    "no source": (["out=OUT"], ["data.root is missing"]),
    "two sources": (["IMAGES", "IMAGES", "out=OUT"], ["a second source"]),
    "a source twice": (["IMAGES", "data=folder", "out=OUT"], ["data=folder", "given as well"]),
    "option": (["IMAGES", "--fast", "out=OUT"], ["--fast", "no such option"]),
    "unknown key": (["IMAGES", "out=OUT", "sharsize=1GB"], ["sharsize", "shard_size"]),
    "unknown data": (["data=imagnet", "out=OUT"], ["no such data"]),
    "size": (["IMAGES", "out=OUT", "shard_size=big"], ["shard_size: got 'big'", "1GB"]),
    "small size": (["IMAGES", "out=OUT", "shard_size=10"], ["shard_size", "at least"]),
    "quality": (["IMAGES", "out=OUT", "quality=0"], ["quality: got 0", "1..100"]),
    "resize": (["IMAGES", "out=OUT", "resize_short=x"], ["resize_short: got 'x'"]),
    "workers": (["IMAGES", "out=OUT", "workers=0"], ["workers: got 0"]),
    "choice": (["IMAGES", "out=OUT", "duplicates=some"], ["duplicates: got 'some'", "keep, exact, near"]),
    "truth": (["IMAGES", "out=OUT", "verify=2"], ["verify: got 2", "true or false"]),
    "share": (["IMAGES", "out=OUT", "max_broken=2"], ["max_broken: got 2"]),
    "split": (["IMAGES", "out=OUT", "split=test"], ["split: test", "no test images"]),
    "remote out": (["IMAGES", "out=s3://bucket/x"], ["out: got 's3://bucket/x'", "local"]),
    "unwritable": (["IMAGES", "out=/dev/null/x"], ["out: can't write to /dev/null/x"]),
    "within": (["IMAGES", "out=IMAGES/out"], ["lies in data.root"]),
    "unknown file": (["FILE", "out=OUT"], ["can't tell what it is", "data=NAME"]),
    "unknown URL": (["https://example.org/images", "out=OUT"], ["can't tell what it is"]),
    "too many broken": (["IMAGES/class_0", "out=OUT", "max_broken=0", "limit=8"], []),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_line(
    name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = MISTAKES[name]
    (tmp_path / "file.xyz").touch()
    places = {"IMAGES": images, "OUT": tmp_path / "out", "FILE": tmp_path / "file.xyz"}
    for place, path in places.items():
        words = [word.replace(place, str(path)) for word in words]
    if not expected:  # one broken image is always allowed
        prepare(*words)
        return
    prepare(*words, status=1)
    line = one_line(capsys)
    assert line.startswith("error: ")
    for part in expected:
        assert part in line


def test_other_options_are_refused(images: Path, converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(images, f"out={converted}", "resize_short=90", "shuffle=false", *SMALL, status=1)
    line = one_line(capsys)
    assert "resize_short (100 -> 90)" in line
    assert "shuffle" in line
    assert "shard_size" not in line


def test_shards_of_others_are_not_touched(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shard-000000.tar").write_bytes(b"precious")
    prepare(images, f"out={tmp_path}", status=1)
    assert "shard-000000.tar" in one_line(capsys)
    assert (tmp_path / "shard-000000.tar").read_bytes() == b"precious"


def test_a_shard_that_is_gone_is_told(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(images, f"out={tmp_path}/out", *SMALL)
    (tmp_path / "out" / "shard-000001.tar").unlink()
    prepare(images, f"out={tmp_path}/out", *SMALL, status=1)
    assert "shard-000001.tar is missing" in one_line(capsys)


def test_a_full_disk_is_told_in_one_line(images: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); "
        "from dinotrain.prepare import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [str(images), f"out={tmp_path}/out", "shard_size=60kB", "workers=1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "can't write to" in line
    prepare(*words)
    assert summary(tmp_path / "out")["counts"]["kept"] == 27


def test_two_at_once_are_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / ".prepare").mkdir(parents=True)
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out" / ".prepare" / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    prepare(images, f"out={tmp_path}/out", status=1)
    holder.kill()
    holder.communicate()
    assert "another process is writing" in one_line(capsys)


def test_help_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    prepare("--help")
    text = capsys.readouterr().out
    for key in ("out=", "shard_size=", "resize_short=", "duplicates=", "near_distance=", "limit="):
        assert key in text
    prepare(status=2)
    heavy = "[m for m in ('torch', 'hydra', 'numpy') if m in sys.modules]"
    code = f"import sys, dinotrain.prepare as p; p.main(['--help']); print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


def test_the_configuration_is_shown(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(images, "out=x", "--config")
    text = capsys.readouterr().out
    assert "shard_size: 1GB" in text
    assert str(images) in text


def test_the_table_says_how_to_train(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(images, f"out={tmp_path}/out", "duplicates=exact")
    output = capsys.readouterr().out
    assert "26 kept of 28" in output
    assert f"data=shards data.root={tmp_path}/out" in output
    assert io.StringIO(output).readline().startswith("converting 28 images")
