"""Training that begins with given weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from real_runs import (
    DISTILLED,
    TEACHER,
    assert_same_run,
    checkpoint,
    losses,
    manifest,
    results,
    rows,
    run_here,
    stored,
)
from torch import Tensor

from dinotrain.models.position import positions_for
from dinotrain.weights.hugging_face import write_hugging_face
from dinotrain.weights.read import read_weights

AT_ONCE = ("optim.warmup=0", "checkpoint.every=1")


def part(held: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def backbone(teacher: Path) -> Path:
    """Weights without heads."""
    return teacher / "backbone.safetensors"


@pytest.fixture(scope="module")
def begun(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that begins with it, and keeps it as it is for two steps; what it printed."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    words = (f"train.start_from={backbone}", "train.freeze_backbone=2")
    return folder, run_here(*TEACHER, *AT_ONCE, *words, f"output_dir={folder}").out


def test_the_backbone_waits_for_the_heads(begun: tuple[Path, str], backbone: Path) -> None:
    folder, _ = begun
    before = dict(read_weights(str(backbone)).backbone)
    heads = []
    for step in (1, 2, 3):
        held = stored(folder, step)
        for network in ("student", "teacher"):
            assert equal(part(held, f"{network}/backbone."), before) == (step < 3)
        heads.append([part(held, f"student/{head}.") for head in ("dino_head", "ibot_head")])
    for earlier, later in itertools.pairwise(heads):
        assert not any(equal(one, other) for one, other in zip(earlier, later))
    moved = part(stored(folder, 3), "student/backbone.")
    assert not any(torch.equal(moved[name], before[name]) for name in before if name != "mask_token")
    assert {manifest(folder, step)["frozen_steps"] for step in (1, 3, 6)} == {2}


def test_it_is_said(begun: tuple[Path, str], backbone: Path) -> None:
    (line,) = (line for line in begun[1].splitlines() if line.startswith("begins with"))
    assert f"{backbone} (exported backbone of this trainer)" in line
    assert "heads new; backbone frozen for the first 2 steps" in line
    assert "resized" not in line


def test_the_baseline_is_what_it_begins_with(begun: tuple[Path, str], teacher: Path) -> None:
    first = rows(begun[0])[0]
    assert first["knn_top1_untrained"] == results(teacher)["knn_top1"]


def test_interrupted_while_the_backbone_waits(begun: tuple[Path, str], backbone: Path, tmp_path: Path) -> None:
    """What it began with is not needed any more."""
    (tmp_path / "gone").mkdir()
    copy = tmp_path / "gone" / "backbone.safetensors"
    words = (f"train.start_from={copy}", "train.freeze_backbone=2", f"output_dir={tmp_path / 'run'}")
    copy.write_bytes(backbone.read_bytes())
    run_here(*TEACHER, *AT_ONCE, *words, stop_after=1)
    copy.unlink()
    resumed = run_here(*TEACHER, *AT_ONCE, *words)
    assert "begins with" not in resumed.out
    assert_same_run(begun[0], tmp_path / "run")
    assert manifest(tmp_path / "run")["frozen_steps"] == 2


def test_a_share_of_the_run(backbone: Path, tmp_path: Path) -> None:
    words = (f"train.start_from={backbone}", "train.freeze_backbone=0.5", "optim.steps=4", f"output_dir={tmp_path}")
    assert "backbone frozen for the first 2 steps" in run_here(*TEACHER, *AT_ONCE, *words).out
    before = dict(read_weights(str(backbone)).backbone)
    frozen = [equal(part(stored(tmp_path, step), "student/backbone."), before) for step in (1, 2, 3)]
    assert frozen == [True, True, False]


def test_nothing_need_wait(backbone: Path, tmp_path: Path) -> None:
    words = (f"train.start_from={backbone}", "train.freeze_backbone=0", "optim.steps=1", f"output_dir={tmp_path}")
    assert "backbone trained from the first step on" in run_here(*TEACHER, *AT_ONCE, *words).out
    assert not equal(part(stored(tmp_path, 1), "student/backbone."), dict(read_weights(str(backbone)).backbone))


def one_step(folder: Path, *words: str) -> dict[str, Tensor]:
    """A first step, which has learning rate 0, so that everything is as at the beginning."""
    run_here(*TEACHER, *words, "optim.steps=1", "optim.warmup=0.9", f"output_dir={folder}")
    return stored(folder, 1)


def test_a_full_checkpoint_gives_its_heads_too(teacher: Path, tmp_path: Path) -> None:
    held, weights = one_step(tmp_path, f"train.start_from={teacher}"), read_weights(str(teacher))
    for network in ("student", "teacher"):
        assert equal(part(held, f"{network}/backbone."), dict(weights.backbone))
        for head, tensors in weights.heads.items():
            assert equal(part(held, f"{network}/{head}."), dict(tensors))
    assert manifest(tmp_path, 1)["frozen_steps"] == 0


def test_the_part_that_was_asked_for(teacher: Path, tmp_path: Path) -> None:
    held = one_step(tmp_path, f"train.start_from={checkpoint(teacher, 4)}", "train.part=student")
    student = part(stored(teacher, 4), "student/")
    assert equal(part(held, "student/"), student)
    assert equal(part(held, "teacher/"), student)


def test_new_heads(teacher: Path, tmp_path: Path) -> None:
    words = (f"train.start_from={teacher}", "train.new_heads=true", "train.freeze_backbone=1")
    held, fresh = one_step(tmp_path / "new", *words), one_step(tmp_path / "fresh")
    assert equal(part(held, "student/backbone."), dict(read_weights(str(teacher)).backbone))
    for head in ("dino_head", "ibot_head"):
        assert equal(part(held, f"student/{head}."), part(fresh, f"student/{head}."))
    assert manifest(tmp_path / "new", 1)["frozen_steps"] == 1


@pytest.mark.parametrize("form", ["original", "Hugging Face"])
def test_from_files_of_others(form: str, teacher: Path, tmp_path: Path) -> None:
    weights = read_weights(str(teacher))
    if form == "original":
        parts = {"backbone": weights.backbone, **weights.heads}
        state = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
        torch.save({"teacher": state}, tmp_path / "weights")
    else:
        write_hugging_face(tmp_path / "weights", weights.backbone, weights.architecture, weights.normalization)
    held = one_step(tmp_path / "run", f"train.start_from={tmp_path / 'weights'}")
    assert equal(part(held, "student/backbone."), dict(weights.backbone))
    if form == "original":
        one_step(tmp_path / "same", f"train.start_from={teacher}")
        assert losses(tmp_path / "run") == losses(tmp_path / "same")


def test_positions_for_larger_images(backbone: Path, tmp_path: Path) -> None:
    words = ("crops.global_size=48", "model.image_size=48", "train.freeze_backbone=1", "optim.steps=1")
    done = run_here(*TEACHER, *words, f"train.start_from={backbone}", f"output_dir={tmp_path}")
    assert "position embeddings resized from 4x4 to 8x8" in done.out
    held, before = part(stored(tmp_path, 1), "student/backbone."), read_weights(str(backbone)).backbone
    assert torch.equal(held["pos_embed"], positions_for(before["pos_embed"], 8, 8, "scale"))
    assert equal({**held, "pos_embed": before["pos_embed"]}, dict(before))


def test_other_statistics_of_images_are_mentioned(backbone: Path, tmp_path: Path) -> None:
    words = ("data.mean=[0.5,0.5,0.5]", "optim.steps=1", f"output_dir={tmp_path}")
    assert "normalised otherwise" in run_here(*TEACHER, *words, f"train.start_from={backbone}").out


def test_a_student_of_a_frozen_teacher_gets_new_heads(teacher: Path, distilled: Path, tmp_path: Path) -> None:
    words = (f"teacher.weights={teacher}", f"train.start_from={distilled}", "train.freeze_backbone=2", "optim.steps=4")
    done = run_here(*DISTILLED, *AT_ONCE, *words, f"output_dir={tmp_path}")
    assert "heads new; backbone frozen for the first 2 steps" in done.out
    before = dict(read_weights(str(distilled)).backbone)
    for step in (1, 2, 3):
        held = stored(tmp_path, step)
        assert equal(part(held, "student/backbone."), before) == (step < 3)
        assert equal(part(held, "ema/backbone."), before) == (step < 3)
