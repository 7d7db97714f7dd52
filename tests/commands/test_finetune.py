"""The finetune command on a tiny backbone and pictures that differ in colour: what it learns, writes and refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from real_runs import environment, numbers, rows, run_command, start_command, stored, wait_for_step

from dinotrain.classifiers.classifier import Classifier
from dinotrain.errors import Status
from dinotrain.finetune import main
from dinotrain.finetuning.supervised import Supervised
from dinotrain.finetuning.validation import Validation
from dinotrain.training.step import train_step
from dinotrain.weights.architecture import Architecture
from dinotrain.weights.classifier_file import CLASSIFIER, read_classifier
from dinotrain.weights.read import read_weights
from dinotrain.weights.runs import write_backbone

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
LIGHT = (
    "steps=12",
    "batch=6",
    "checkpoint_every=3",
    "evaluate_every=4",
    "log_every=1",
    "crop_fraction=1.0",
    "threads=1",
    "device=cpu",
    "data.min_size=8",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of three blocks for 16 px."""
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    state = dict(tiny.backbone(0, depth=3).named_parameters())
    write_backbone(path, state, Architecture.of_tensors(state, num_heads=2))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes, apart for training and validation."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 8), ("val", 4)):
        for name in COLORS:
            draw(folder / split / name, name, count)
    return folder


def draw(folder: Path, color: str, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        generator = np.random.default_rng([sum(map(ord, f"{folder.parent.name}{color}")), number])
        pixels = np.array(COLORS[color]) + generator.integers(-40, 40, (20, 24, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="module")
def table(images: Path) -> Path:
    """A table in which each picture has its colour as a label, some another one too, and one class few have."""
    lines = ["path,labels"]
    for split in ("train", "val"):
        for number, file in enumerate(sorted((images / split).rglob("*.png"))):
            more = ";first" if number % 2 == 0 else ""
            rare = ";rare" if number == 1 and split == "train" else ""
            lines.append(f"{file.relative_to(images)},{file.parent.name}{more}{rare}")
    path = images / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def finetune(*words: str, status: int = 0) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as in a process of its own, so that sums are the same
    try:
        assert main(list(words)) == status
    finally:
        torch.set_num_threads(threads)


def trained(run: Path, weights: Path, images: Path, *words: str) -> Path:
    finetune(f"weights={weights}", f"data.root={images / 'train'}", f"output_dir={run}", *LIGHT, *words)
    return run


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def task(run: Path) -> dict[str, Any]:
    return results(run)["tasks"]["finetune"]


@pytest.fixture(scope="module")
def linear(weights: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear") / "run"
    return trained(folder, weights, images, f"validation_root={images / 'val'}", "steps=40", "patience=null")


@pytest.fixture(scope="module")
def full(weights: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("full") / "run", weights, images, "head=full")


def test_a_linear_head_learns_and_its_backbone_stays_as_it_was(linear: Path, weights: Path) -> None:
    assert task(linear)["numbers"]["top1"] > 90
    found, before = read_classifier(str(linear)), read_weights(str(weights))
    assert found.description.classes == ("blue", "green", "red")
    assert found.description.blocks == 1
    assert found.backbone.backbone.keys() == before.backbone.keys()
    assert all(torch.equal(found.backbone.backbone[name], before.backbone[name]) for name in before.backbone)
    # Nor is the backbone held in the checkpoints.
    assert not any("backbone" in name for name in stored(linear, 40))


def test_the_classifier_answers_as_it_was_measured(linear: Path, images: Path) -> None:
    classifier = Classifier.of_weights(read_classifier(str(linear)))
    right = []
    for number, name in enumerate(classifier.description.classes):
        for file in sorted((images / "val" / name).iterdir()):
            pixels = classifier.preparation.pixels(np.array(Image.open(file)))
            answer = classifier(classifier.preparation.normalize(pixels.unsqueeze(0))).argmax()
            right.append(int(answer) == number)
    assert 100 * np.mean(right) == pytest.approx(task(linear)["numbers"]["top1"])


def test_the_run_folder_has_what_a_run_has(linear: Path, weights: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "environment.json", "skipped.txt", "parameters.txt", "report.html"):
        assert (linear / name).exists(), name
    found = results(linear)
    assert found["finished"]
    assert found["data"]["train"]["images"] == 24
    assert found["data"]["validation"]["images"] == 12
    assert found["weights"]["digest"] == read_weights(str(weights)).digest()
    low, high = task(linear)["interval"]
    assert low <= task(linear)["numbers"]["top1"] <= high
    (matrix,) = task(linear)["matrices"]
    assert matrix["rows"] == ["blue", "green", "red"]
    origin = read_classifier(str(linear)).description.origin
    assert origin["weights_digest"] == found["weights"]["digest"]
    assert origin["step"] == found["best_step"]
    assert origin["validation"]["top1"] == task(linear)["numbers"]["top1"]
    evaluated = [row["step"] for row in rows(linear) if row.get("evaluated")]
    assert evaluated == list(range(4, 41, 4))


def test_the_best_is_kept(linear: Path) -> None:
    evaluated = {row["step"]: row for row in rows(linear) if row.get("evaluated")}
    best = max(evaluated, key=lambda step: (evaluated[step]["validation_top1"], -evaluated[step]["validation_loss"]))
    assert results(linear)["best_step"] == best
    for name, value in task(linear)["numbers"].items():
        assert value == evaluated[best][f"validation_{name}"]


def test_all_is_trained_with_head_full(full: Path, weights: Path) -> None:
    found, before = read_classifier(str(full)), read_weights(str(weights))
    changed = {
        name for name in before.backbone if not torch.equal(found.backbone.backbone[name], before.backbone[name])
    }
    # Nothing is masked, and softmax does not feel the bias of the keys alone.
    assert changed == before.backbone.keys() - {"mask_token"}
    assert [row["step"] for row in rows(full) if "grad_norm_backbone" in row] == list(range(1, 13))


def test_layers_have_learning_rates_of_their_own(full: Path) -> None:
    lines = (full / "parameters.txt").read_text().splitlines()
    rates = {cells[0]: float(cells[2]) for line in lines if len(cells := line.split()) == 4 and "." in cells[0]}
    assert rates["head.weight"] == rates["backbone.norm.weight"] == 1
    for block in range(3):
        assert rates[f"backbone.blocks.{block}.attn.qkv.weight"] == pytest.approx(0.75 ** (3 - block), rel=1e-3)
    assert rates["backbone.patch_embed.proj.weight"] == pytest.approx(0.75**4, rel=1e-3)


def test_four_blocks_become_those_that_there_are(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "run", weights, images, "head=linear4")
    assert read_classifier(str(run)).description.blocks == 3
    assert "the network has 3 blocks, so 3 stand for 4" in capsys.readouterr().out


def test_without_validation_images_a_tenth_is_held_out(full: Path) -> None:
    assert results(full)["data"]["train"]["images"] == 21
    assert results(full)["data"]["validation"]["images"] == 3
    assert any("held out" in note for note in task(full)["notes"])


def test_what_to_do_next_is_said(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (full / "config.yaml").read_text()
    root = next(line.split(": ")[1] for line in config.splitlines() if line.strip().startswith("root:"))
    weights = next(line.split(": ")[1] for line in config.splitlines() if line.startswith("weights:"))
    before = (full / CLASSIFIER).read_bytes()
    finetune(f"weights={weights}", f"data.root={root}", f"output_dir={full}", *LIGHT, "head=full")
    said = capsys.readouterr().out
    assert "already finished" in said
    assert f"python -m dinotrain.predict model={full} IMAGE" in said
    assert (full / CLASSIFIER).read_bytes() == before


def test_several_labels(table: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    finetune(
        f"weights={weights}",
        "data=multilabel_csv",
        f"data.root={table}",
        f"output_dir={run}",
        *LIGHT,
        "labels=multi",
        "steps=60",
        "patience=null",
        "seed=1",
    )
    description = read_classifier(str(run)).description
    assert description.labels == "multi"
    assert description.classes == ("blue", "first", "green", "rare", "red")
    missing = description.classes.index("rare")
    assert description.thresholds[missing] == 0.5
    assert len(description.thresholds) == 5
    assert task(run)["numbers"]["map"] > 50
    assert any("threshold 0.5 for" in note and "rare" in note for note in task(run)["notes"])
    (per_class,) = task(run)["tables"]
    assert per_class["columns"][-1] == "threshold"
    assert "class rare with a single training image" in " ".join(capsys.readouterr().out.split())


def test_patience_ends_a_run_that_gets_no_better(weights: Path, images: Path, tmp_path: Path) -> None:
    # A rate so small that nothing changes in single precision: the first evaluation stays the best.
    run = trained(tmp_path / "run", weights, images, "lr=1e-30", "evaluate_every=1", "patience=3")
    assert results(run)["steps"] == 4
    assert results(run)["best_step"] == 1
    assert any("patience" in note for note in task(run)["notes"])


def test_a_classifier_is_gone_on_with(
    linear: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "run", linear, images, f"validation_root={images / 'val'}", "lr=1e-30")
    assert "going on with the head of the weights" in capsys.readouterr().out
    # Evaluated before the first step, and not better after it.
    assert next(row["step"] for row in rows(run) if row.get("evaluated")) == 0
    assert task(run)["numbers"]["top1"] == task(linear)["numbers"]["top1"]
    assert torch.equal(read_classifier(str(run)).weight, read_classifier(str(linear)).weight)


def test_a_head_of_other_classes_is_replaced(
    linear: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = tmp_path / "two"
    for name in ("red", "green"):
        shutil.copytree(images / "train" / name, two / "train" / name)
    trained(tmp_path / "run", linear, two, "steps=2")
    assert "a new head: that of the weights does not fit (it tells 3 other classes)" in capsys.readouterr().out


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_rare_classes_count_more_when_asked(balance: str, weights: Path, images: Path, tmp_path: Path) -> None:
    rare = tmp_path / "rare"
    shutil.copytree(images / "train", rare / "train")
    for file in sorted((rare / "train" / "red").iterdir())[2:]:
        file.unlink()
    seen: list[tuple[torch.Tensor | None, torch.Tensor]] = []

    def spied(self: Supervised, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append((self.weights, targets))
        return original(self, scores, targets)

    original = Supervised.loss
    with mock.patch.object(Supervised, "loss", spied):
        trained(tmp_path / "run", weights, rare, f"balance={balance}", f"validation_root={images / 'val'}")
    shown = np.bincount(torch.cat([targets for _, targets in seen]).numpy(), minlength=3)
    weight = seen[0][0]
    if balance == "loss":
        assert weight is not None
        assert weight.tolist() == pytest.approx([0.75, 0.75, 3.0])
        assert shown[2] < 12
    else:
        assert weight is None
        assert shown.tolist() == pytest.approx([24, 24, 24], abs=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("head", ["linear", "linear4", "full"])
def test_a_gpu_trains_in_all_precisions(head: str, precision: str, weights: Path, images: Path, tmp_path: Path) -> None:
    words = (f"head={head}", f"precision={precision}", "device=cuda", f"validation_root={images / 'val'}")
    run = trained(tmp_path / "run", weights, images, *words, "steps=40", "patience=null", "balance=loss")
    assert task(run)["numbers"]["top1"] > 80
    assert results(run)["precision"] == precision


# Going on


@contextlib.contextmanager
def terminated_after(step: int) -> Iterator[None]:
    def then_end(states: Sequence[Any], *rest: Any, **more: Any) -> Any:
        found = train_step(states, *rest, **more)
        if states[0].step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    with mock.patch("dinotrain.finetuning.loop.train_step", then_end):
        yield


def assert_same(one: Path, other: Path, step: int = 12) -> None:
    """Bit-equal in what was logged, in the last checkpoint and in the classifier."""
    assert numbers(one) == numbers(other)
    a, b = stored(one, step), stored(other, step)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    here, there = read_classifier(str(one)), read_classifier(str(other))
    assert torch.equal(here.weight, there.weight)
    assert all(torch.equal(value, there.backbone.backbone[name]) for name, value in here.backbone.backbone.items())
    assert task(one)["numbers"] == task(other)["numbers"]


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    step: int, full: Path, weights: Path, images: Path, tmp_path: Path
) -> None:
    words = (f"weights={weights}", f"data.root={images / 'train'}", f"output_dir={tmp_path / 'run'}", "head=full")
    with terminated_after(step):
        finetune(*words, *LIGHT, status=Status.STOPPED)
    assert not (tmp_path / "run" / CLASSIFIER).exists()
    finetune(*words, *LIGHT)
    assert_same(full, tmp_path / "run")
    assert [row["event"] for row in rows(tmp_path / "run") if "event" in row] == ["interrupted", "resume", "finished"]


def test_a_stop_in_an_evaluation_is_made_up_for(full: Path, weights: Path, images: Path, tmp_path: Path) -> None:
    words = (f"weights={weights}", f"data.root={images / 'train'}", f"output_dir={tmp_path / 'run'}", "head=full")
    scores = Validation.scores

    def interrupted(self: Validation, network: torch.nn.Module) -> Any:
        os.kill(os.getpid(), signal.SIGUSR2)
        return scores(self, network)

    with mock.patch.object(Validation, "scores", interrupted):
        finetune(*words, *LIGHT, status=Status.STOPPED)
    assert not any(row.get("evaluated") for row in rows(tmp_path / "run"))
    finetune(*words, *LIGHT)
    assert_same(full, tmp_path / "run")


def command(*words: str, processes: int = 1) -> list[str]:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
    return [*start, "dinotrain.finetune", *words]


@pytest.mark.slow
def test_a_killed_process_goes_on_as_if_it_had_not_been(weights: Path, images: Path, tmp_path: Path) -> None:
    words = [f"weights={weights}", f"data.root={images / 'train'}", *LIGHT, "head=full", "steps=40"]
    run_command(command(*words, f"output_dir={tmp_path / 'whole'}"), tmp_path)
    cut = [*words, f"output_dir={tmp_path / 'cut'}"]
    process = start_command(command(*cut), tmp_path)
    wait_for_step(process, tmp_path / "cut", 14)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "cut" / CLASSIFIER).exists()
    done = run_command(command(*cut), tmp_path)
    assert "going on from" in done.stdout
    assert_same(tmp_path / "whole", tmp_path / "cut", 40)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "full"])
def test_two_processes_train_what_one_trains(head: str, weights: Path, images: Path, tmp_path: Path) -> None:
    words = [f"weights={weights}", f"data.root={images / 'train'}", *LIGHT, f"head={head}", "balance=loss"]
    finetune(*words, f"output_dir={tmp_path / 'one'}")
    run_command(command(*words, f"output_dir={tmp_path / 'two'}", processes=2), tmp_path)
    one, two = (read_classifier(str(tmp_path / name)) for name in ("one", "two"))
    assert torch.allclose(one.weight, two.weight, rtol=1e-3, atol=1e-5)
    for row, other in zip(numbers(tmp_path / "one"), numbers(tmp_path / "two"), strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() & {"loss", "validation_loss", "validation_top1"}:
            assert row[key] == pytest.approx(other[key], rel=1e-4)
    assert results(tmp_path / "two")["processes"] == 2


# What is refused


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], weights: Path, images: Path, tmp_path: Path) -> Callable[..., str]:
    def refuse(*words: str) -> str:
        own = {word.partition("=")[0] for word in words}
        usual = (f"weights={weights}", f"data.root={images / 'train'}", f"output_dir={tmp_path / 'run'}", *LIGHT)
        finetune(*(word for word in usual if word.partition("=")[0] not in own), *words, status=1)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return refuse


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["head=linear2"], "head: got 'linear2', expected one of linear, linear4, full"),
        (["labels=several"], "labels: got 'several', expected one of auto, single, multi"),
        (["balance=yes"], "balance: got 'yes', expected one of none, loss, sampling"),
        (["layer_decay=0.5"], "layer_decay: got 0.5, but head=linear does not train the backbone"),
        (["head=full", "layer_decay=2"], "layer_decay: got 2"),
        (["head=full", "drop_path=1.0"], "drop_path: got 1.0, must be a number below 1"),
        (["lr=0"], "lr: got 0, must be a number above 0"),
        (["steps=0"], "steps: got 0"),
        (["patience=0"], "patience: got 0"),
        (["crop_scale=[0.5]"], r"crop_scale: got \[0.5\]"),
        (["label_smoothing=1"], "label_smoothing: got 1"),
        (["warmup=20"], "warmup: got 20"),
        (["size=15"], "size: 15 px is not a multiple of the patches of 4 px"),
        (["micro_batch=4"], "micro_batch: 4 does not divide the 6 images"),
        (["labels=multi"], "labels: multi, but these images have one class each"),
        (["weights=nowhere"], "weights: nowhere: no such file or folder"),
        (["layr_decay=0.5"], "layr_decay: no such key; did you mean layer_decay"),
    ],
)
def test_wrong_values_are_refused(words: list[str], expected: str, refused: Callable[..., str]) -> None:
    line = refused(*words)
    assert re.match(expected, line), line


def test_labels_of_the_other_kind_are_refused(table: Path, refused: Callable[..., str]) -> None:
    line = refused("data=multilabel_csv", f"data.root={table}", "labels=single")
    assert line.startswith("labels: single, but these images have any number of classes each")


def test_images_without_labels_are_refused(images: Path, refused: Callable[..., str]) -> None:
    line = refused(f"data.root={images / 'train' / 'red'}")
    assert line.startswith("data.root: these images have no labels; expected one sub-folder")


def test_a_class_of_one_image_can_not_be_held_out(images: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    few = tmp_path / "few"
    shutil.copytree(images / "train", few)
    for file in sorted((few / "red").iterdir())[1:]:
        file.unlink()
    assert "class red has a single training image" in refused(f"data.root={few}")


def test_other_classes_to_validate_by_are_refused(images: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(images / "val", other)
    (other / "red").rename(other / "crimson")
    line = refused(f"validation_root={other}")
    assert line.startswith("validation_root: class 'crimson' is not among the training images'")


def test_a_folder_of_something_else_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("model: {depth: 3}\n")
    assert refused(f"output_dir={other}").startswith(f"output_dir: {other} is the folder of a training run")
    (other / "config.yaml").unlink()
    (other / "results.json").write_text("{}")
    assert refused(f"output_dir={other}").startswith(f"output_dir: {other} holds results of something else")
    assert [path.name for path in other.iterdir()] == ["results.json"]


def test_other_options_are_refused_with_what_differs(
    linear: Path, images: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(linear, run)
    same = (f"output_dir={run}", f"validation_root={images / 'val'}", "steps=40", "patience=null")
    line = refused(*same, "weight_decay=0.2", "checkpoint_every=7")
    assert line.startswith(f"output_dir: {run} was started with other options: weight_decay: 0.05 -> 0.2. Take")
    other = tmp_path / "images"
    shutil.copytree(images / "train", other)
    next((other / "red").iterdir()).unlink()
    assert "the images themselves: " in refused(*same, f"data.root={other}")


def test_numbers_that_are_not_finite_end_the_run(refused: Callable[..., str]) -> None:
    line = refused("lr=1e38", "clip_grad=null", "warmup=0", "head=full")
    assert "is not finite at step" in line
    assert "a smaller lr" in line


def test_too_many_broken_images_end_the_run(images: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(images / "train", broken)
    for file in sorted((broken / "red").iterdir())[:3]:
        file.write_bytes(b"no picture")
    line = refused(f"data.root={broken}", f"validation_root={images / 'val'}", "steps=40")
    assert line.startswith("data.max_broken: ")
    assert "no picture" not in line


def test_broken_images_are_left_out_and_listed(weights: Path, images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "images"
    shutil.copytree(images, broken)
    (broken / "train" / "red" / "000.png").write_bytes(b"no picture")
    (broken / "val" / "red" / "000.png").write_bytes(b"no picture")
    run = trained(tmp_path / "run", weights, broken, f"validation_root={broken / 'val'}")
    assert "red/000.png" in (run / "skipped.txt").read_text()
    assert any("1 of the validation images could not be read" in note for note in task(run)["notes"])


def test_help_and_config(capsys: pytest.CaptureFixture[str]) -> None:
    finetune("--help")
    assert "usage: python -m dinotrain.finetune" in capsys.readouterr().out
    finetune(status=Status.USAGE)
    capsys.readouterr()
    finetune("--config", "weights=x", "data=embedded")
    assert "layer_decay: null" in capsys.readouterr().out
    done = subprocess.run(command("--nothing"), capture_output=True, text=True, env=environment())
    assert done.returncode == 1
    assert done.stderr.startswith("error: --nothing: expected key=value")
