"""Distilling a frozen teacher, by its prototypes and by its features, as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from real_runs import (
    DISTILLED,
    FEATURES,
    TEACHER,
    checkpoint,
    losses,
    manifest,
    results,
    rows,
    run_here,
    stored,
)

from dinotrain.weights.hugging_face import write_hugging_face
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights


def whole_pth(path: Path, weights: Weights) -> Path:
    """A training checkpoint as the original's."""
    parts = {"backbone": weights.backbone, **weights.heads}
    tensors = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    torch.save({"teacher": tensors}, path)
    return path


def backbone_pth(path: Path, weights: Weights) -> Path:
    torch.save(dict(weights.backbone), path)
    return path


def hugging_face(path: Path, weights: Weights) -> Path:
    write_hugging_face(path, weights.backbone, weights.architecture, weights.normalization)
    return path


def first_loss(folder: Path, *words: str) -> float:
    """Of a run of one step."""
    run_here(*words, "optim.steps=1", f"output_dir={folder}")
    return losses(folder)[1]


def test_everything_is_in_place(distilled: Path) -> None:
    assert list(losses(distilled)) == [1, 2, 3, 4, 5, 6]
    for name in ("config.yaml", "results.json", "backbone.safetensors", "parameters.txt", "environment.json"):
        assert (distilled / name).exists(), name
    for row in rows(distilled):
        if "loss" in row:
            assert {"dino_loss", "ibot_loss", "koleo_loss", "teacher_entropy", "effective_rank"} <= row.keys()
    first = rows(distilled)[0]
    assert {"knn_top1_untrained", "knn_top1_pixels", "knn_top1_teacher"} <= first.keys()


def test_the_heads_are_as_the_teachers(teacher: Path, distilled: Path) -> None:
    """In the run's configuration there are numbers, so that it says by itself what it was."""
    before, after = (yaml.safe_load((folder / "config.yaml").read_text())["method"] for folder in (teacher, distilled))
    for head, prototypes in (("dino_head", 40), ("ibot_head", 48)):
        for key in ("hidden_dim", "bottleneck_dim", "num_prototypes", "num_layers"):
            assert after[head][key] == before[head][key] is not None
        assert after[head]["num_prototypes"] == prototypes
    shapes = {name: value.shape for name, value in read_weights(str(distilled)).heads["ibot_head"].items()}
    assert shapes["last_layer.weight_v"] == (48, 16)
    assert shapes["mlp.0.weight"] == (24, 16)


def test_a_head_may_be_smaller_inside(teacher: Path, tmp_path: Path) -> None:
    words = ("method.dino_head.hidden_dim=12", "method.dino_head.num_layers=2", "optim.steps=1")
    run_here(*DISTILLED, *words, f"teacher.weights={teacher}", f"output_dir={tmp_path}")
    head = yaml.safe_load((tmp_path / "config.yaml").read_text())["method"]["dino_head"]
    assert {key: head[key] for key in ("hidden_dim", "bottleneck_dim", "num_prototypes", "num_layers")} == {
        "hidden_dim": 12,
        "bottleneck_dim": 16,
        "num_prototypes": 40,
        "num_layers": 2,
    }
    assert losses(tmp_path).keys() == {1}


def test_results_and_manifest_say_who_taught(teacher: Path, distilled: Path, featured: Path) -> None:
    weights = read_weights(str(teacher))
    digests = {distilled: weights.digest(), featured: weights.without_heads().digest()}
    for folder, digest in digests.items():
        assert results(folder)["teacher"] == {"path": str(teacher), "digest": digest}
        assert {manifest(folder, step)["teacher"] for step in (2, 4, 6)} == {digest}


@pytest.mark.parametrize("method", ["distilled", "featured"])
def test_a_checkpoint_holds_nothing_of_the_teacher(method: str, request: pytest.FixtureRequest) -> None:
    held = stored(request.getfixturevalue(method))
    # Sinkhorn-Knopp has no state.
    own = {"method"} if method == "featured" else set()
    assert {name.partition("/")[0] for name in held} == {"student", "ema", "optimizer"} | own
    for name, value in held.items():
        heads = ("dino_head", "ibot_head", "cls_projection", "patch_projection", "statistics")
        assert 64 not in value.shape or any(head in name for head in heads), name


@pytest.mark.parametrize("method", ["distilled", "featured"])
def test_the_backbone_that_is_handed_over_is_the_moving_average(method: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(method)
    handed, held = read_weights(str(folder / "backbone.safetensors")), stored(folder)
    average = {name: value for name, value in held.items() if name.startswith("ema/backbone.")}
    assert {f"ema/backbone.{name}" for name in handed.backbone} == average.keys()
    for name, value in handed.backbone.items():
        assert torch.equal(value, average[f"ema/backbone.{name}"])
        if value.dim() > 1 and name != "mask_token":
            assert not torch.equal(value, held[f"student/backbone.{name}"])
    assert handed.architecture == read_weights(str(folder)).architecture


FORMS: dict[str, Callable[[Path, Weights, Path], list[str]]] = {
    "checkpoint": lambda run, _, __: [f"teacher.weights={checkpoint(run)}"],
    "named part": lambda run, _, __: [f"teacher.weights={run}", "teacher.part=teacher"],
    "original": lambda _, weights, folder: [f"teacher.weights={whole_pth(folder / 'teacher.pth', weights)}"],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_teacher_in_any_form(form: str, teacher: Path, distilled: Path, tmp_path: Path) -> None:
    words = FORMS[form](teacher, read_weights(str(teacher)), tmp_path)
    loss = first_loss(tmp_path / "run", *DISTILLED, *words)
    assert results(tmp_path / "run")["teacher"]["digest"] == results(distilled)["teacher"]["digest"]
    assert loss == losses(distilled)[1]


def test_another_part_is_another_teacher(teacher: Path, distilled: Path, tmp_path: Path) -> None:
    loss = first_loss(tmp_path / "run", *DISTILLED, f"teacher.weights={teacher}", "teacher.part=student")
    digest = read_weights(str(teacher), part="student").digest()
    assert results(tmp_path / "run")["teacher"]["digest"] == digest != results(distilled)["teacher"]["digest"]
    assert loss != losses(distilled)[1]


def test_a_teacher_with_one_head_for_both(tmp_path: Path) -> None:
    words = [word for word in TEACHER if "ibot_head" not in word]
    run_here(*words, "method.ibot_head=null", "optim.steps=2", f"output_dir={tmp_path / 'teacher'}")
    run_here(*DISTILLED, f"teacher.weights={tmp_path / 'teacher'}", "optim.steps=2", f"output_dir={tmp_path / 'run'}")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["method"]["ibot_head"] is None
    assert set(read_weights(str(tmp_path / "run")).heads) == {"dino_head"}


def test_what_was_distilled_teaches_in_turn(distilled: Path, tmp_path: Path) -> None:
    words = (f"teacher.weights={distilled}", "model.embed_dim=8", f"output_dir={tmp_path / 'run'}", "optim.steps=2")
    run_here(*DISTILLED, *words)
    assert results(tmp_path / "run")["teacher"]["digest"] == read_weights(str(distilled), part="ema").digest()


def test_a_distillation_begins_with_what_was_distilled(teacher: Path, distilled: Path, tmp_path: Path) -> None:
    words = (f"teacher.weights={teacher}", f"train.start_from={distilled}", "optim.steps=3")
    done = run_here(*DISTILLED, *words, "train.freeze_backbone=2", f"output_dir={tmp_path / 'run'}")
    assert "EMA of the student at step 6" in done.out
    held, average = stored(tmp_path / "run", 2), stored(distilled)
    for name in read_weights(str(distilled)).backbone:
        assert torch.equal(held[f"student/backbone.{name}"], average[f"ema/backbone.{name}"])


FEATURE_FORMS: dict[str, Callable[[Path, Weights, Path], Path]] = {
    "original": lambda _, weights, folder: backbone_pth(folder / "backbone.pth", weights),
    "original with heads": lambda _, weights, folder: whole_pth(folder / "teacher.pth", weights),
    "export": lambda run, _, __: run / "backbone.safetensors",
    "Hugging Face": lambda _, weights, folder: hugging_face(folder / "hugging_face", weights),
}


@pytest.mark.parametrize("form", FEATURE_FORMS)
def test_the_same_features_from_any_form(form: str, teacher: Path, featured: Path, tmp_path: Path) -> None:
    path = FEATURE_FORMS[form](teacher, read_weights(str(teacher)), tmp_path)
    loss = first_loss(tmp_path / "run", *FEATURES, f"teacher.weights={path}")
    assert loss == losses(featured)[1]


def test_features_are_all_that_is_needed(featured: Path) -> None:
    for row in rows(featured):
        if "loss" in row:
            assert {"cls_cosine_loss", "cls_smooth_l1_loss", "patch_cosine_loss", "patch_smooth_l1_loss"} <= row.keys()
            assert "teacher_entropy" not in row or row["teacher_entropy"] is None
    assert losses(featured)[6] < losses(featured)[1]
    assert not read_weights(str(featured)).heads


@pytest.mark.parametrize(
    "words",
    [
        ("model.patch_size=4",),
        ("model.patch_size=12",),
        ("teacher.size=36",),
        ("model.patch_size=4", "teacher.size=12"),
    ],
)
def test_features_on_another_grid(words: tuple[str, ...], teacher: Path, tmp_path: Path) -> None:
    done = run_here(*FEATURES, *words, f"teacher.weights={teacher}", "optim.steps=2", f"output_dir={tmp_path / 'run'}")
    size = next((word.partition("=")[2] for word in words if word.startswith("teacher")), "24")
    assert f"sees the global crops in {size} px" in done.out
    assert all(loss > 0 for loss in losses(tmp_path / "run").values())


def test_prototypes_with_other_patches_on_the_same_grid(teacher: Path, tmp_path: Path) -> None:
    words = ("crops.global_size=32", "crops.local_size=16", "model.image_size=32", "model.patch_size=8")
    done = run_here(*DISTILLED, *words, f"teacher.weights={teacher}", "optim.steps=2", f"output_dir={tmp_path / 'run'}")
    assert "sees the global crops in 24 px" in done.out
