"""The command that tells classes, as a user types it."""

from __future__ import annotations

import base64
import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from image_files import animated, broken, color, png_header
from PIL import Image
from real_runs import environment
from small_classifier import CLASSES, small_classifier, write_small_classifier

from dinotrain.data.images import decode
from dinotrain.predict import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_classifier(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for number, place in enumerate(("a.png", "b.png", "more/c.png")):
        (folder / place).write_bytes(color(80 * number, 255 - 90 * number, 40))
    return folder


def run(capfd: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    found = main(words)
    captured = capfd.readouterr()
    assert found == status, captured
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def expected(path: Path) -> dict[str, float]:
    classifier = small_classifier()
    pixels = classifier.preparation.pixels(decode(path.read_bytes()))[None]
    found = classifier.probabilities(classifier(classifier.preparation.normalize(pixels)))[0]
    return dict(zip(CLASSES, found.tolist()))


def test_jsonl_in_both_forms(model: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, err = run(capfd, f"model={model}", str(images), "form=probs")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [str(images / name) for name in ("a.png", "b.png", "more/c.png")]
    for row in rows:
        assert row["labels"] == list(CLASSES)
        assert row["probs"] == pytest.approx(list(expected(Path(row["image"])).values()), abs=1e-5)
    assert err == ""
    out, _ = run(capfd, f"model={model}/classifier.safetensors", str(images / "a.png"), "form=ranked", "top=2")
    ranked = json.loads(out)["ranked"]
    best = sorted(expected(images / "a.png").items(), key=lambda pair: -pair[1])[:2]
    assert [each["label"] for each in ranked] == [label for label, _ in best]


def test_csv_in_both_forms(model: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, f"model={model}", str(images), "none.png", "form=probs", "format=csv", status=1)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["image", *CLASSES, "error"]
    assert sum(float(rows[0][name]) for name in CLASSES) == pytest.approx(1, abs=1e-4)
    assert rows[-1]["error"] == "no such file or directory"
    out, _ = run(capfd, f"model={model}", str(images), "format=csv", "top=3")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 3


def test_a_table_has_a_line_per_image(model: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (images.parent / "notes").mkdir(exist_ok=True)
    moving = images.parent / "notes" / "moving.gif"
    moving.write_bytes(animated())
    out, err = run(capfd, f"model={model}", str(images), str(moving), "none.png", "format=table", status=1)
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(" %  " in line for line in lines)
    assert "the first is taken" in lines[3]
    assert err.splitlines() == [
        "error: none.png: no such file or directory",
        "1 of 5 images could not be read",
    ]


def test_bad_images_are_told_and_the_others_answered(
    model: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = {**broken(), "bomb": png_header(20_000, 20_000)}
    for name, data in bad.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    out, err = run(capfd, f"model={model}", str(images), str(tmp_path), "batch=3", status=1)
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 3 + len(bad)
    assert [row["image"] for row in rows if "error" not in row] == [
        str(images / n) for n in ("a.png", "b.png", "more/c.png")
    ]
    assert err == f"{len(bad)} of {len(rows)} images could not be read\n"


def test_thresholds_of_several_labels(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(images / "a.png")
    own = write_small_classifier(tmp_path / "own", small_classifier("multi", (0.0, 1.0, 0.0, 1.0)))
    out, _ = run(capfd, f"model={own}", path, "form=probs")
    assert json.loads(out)["labels"] == [CLASSES[0], CLASSES[2]]
    out, _ = run(capfd, f"model={own}", path, "form=probs", "threshold=0")
    found = json.loads(out)
    assert found["labels"] == list(CLASSES)
    assert abs(sum(found["probs"]) - 1) > 1e-3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "model is missing: a run of finetune"),
        (["model={model}"], "images: got none, expected files, folders, URLs"),
        (["model=/nowhere", "x.png"], "model: /nowhere: no such file or folder"),
        (["model={model}", "x.png", "form=other"], "form: got 'other', expected one of probs, ranked"),
        (["model={model}", "x.png", "format=xml"], "format: got 'xml', expected one of null, table, jsonl, csv"),
        (["model={model}", "x.png", "format=table", "form=probs"], "form: got 'probs', expected format=jsonl"),
        (["model={model}", "x.png", "top=0"], "top: got 0"),
        (["model={model}", "x.png", "threshold=0.3"], "threshold: got 0.3, expected none"),
        (["model={model}", "x.png", "batch=0"], "batch: got 0"),
        (["model={model}", "x.png", "bacht=1"], "bacht: no such key; did you mean batch?"),
        (["model={model}", "x.png", "limits.max_mb=-1"], "limits.max_mb: got -1"),
        (["model={model}", "x.png", "urls.seconds=soon"], "urls.seconds: got 'soon', expected a number"),
        (["model={model}", "x.png", "limits=3"], "limits: got 3"),
        (["model={model}", "x.png", "--form"], "--form: no such option"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    filled = [word.format(model=model) for word in words]
    if filled:
        _, err = run(capfd, *filled, status=1)
    else:
        _, err = run(capfd, "x.png", status=1)
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_help_and_configuration(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "usage:" in run(capfd, "--help")[0]
    assert "usage:" in run(capfd, status=2)[0]
    out, _ = run(capfd, f"model={model}", "--config", "top=7")
    assert f"path: {model}" in out
    assert "top: 7" in out


def start(model: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dinotrain.predict", f"model={model}", *words]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )


def test_lines_of_standard_input_are_answered_as_they_come(model: Path, images: Path) -> None:
    process = start(model, "-", "form=probs")
    assert process.stdin is not None
    assert process.stdout is not None
    for name in ("a.png", "b.png"):
        process.stdin.write(base64.b64encode((images / name).read_bytes()) + b"\n")
        process.stdin.flush()
        row = json.loads(process.stdout.readline())
        assert row["probs"] == pytest.approx(list(expected(images / name).values()), abs=1e-5)
    # There may be more lines, but nobody wants to wait for them.
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.decode() == "stopped\n"


def test_a_reader_that_has_seen_enough_is_no_error(model: Path, tmp_path: Path) -> None:
    for number in range(400):
        Image.new("RGB", (20, 20), (number % 256, 0, 0)).save(tmp_path / f"{number:04d}.png")
    process = start(model, str(tmp_path), "batch=4")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    began = time.monotonic()
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == b""
    assert time.monotonic() - began < 100
    process.stderr.close()
    if process.stdin:
        process.stdin.close()


def test_half_precision_says_nearly_the_same(model: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, f"model={model}", str(images / "a.png"), "form=probs", "precision=bf16")
    found = torch.tensor(json.loads(out)["probs"])
    assert torch.allclose(found, torch.tensor(list(expected(images / "a.png").values())), atol=0.05)
