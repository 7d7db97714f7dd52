"""Several students of one frozen teacher: each ends as on its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tiny
import torch
import yaml
from real_runs import (
    DISTILLED,
    FEATURES,
    assert_same_run,
    checkpoint,
    command_of,
    losses,
    manifest,
    refused,
    results,
    rows,
    run_command,
    run_here,
    stored,
)
from torch import Tensor

from dinotrain.methods.frozen_teacher import FrozenTeacher
from dinotrain.models.networks import Scores
from dinotrain.training import step
from dinotrain.training.state import TrainState
from dinotrain.weights.read import read_weights

SIZES = {"image_size": 24, "patch_size": 6, "ffn_ratio": 2.0, "num_heads": 2}
MODELS = {"narrow": SIZES | {"embed_dim": 16, "depth": 2}, "wide": SIZES | {"embed_dim": 24, "depth": 1}}
PROTOTYPES = (*DISTILLED, "evaluation.every=3")
METHODS = {"prototypes": PROTOTYPES, "features": FEATURES}


def entry(name: str, **changes: object) -> str:
    keys = {"model": "vit_tiny", "name": name, **MODELS[name], **changes}
    return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


def students(*names: str) -> str:
    return f"students=[{','.join(entry(name) for name in names)}]"


def alone(name: str) -> list[str]:
    """The words that make one of them a run of its own."""
    return [f"model.{key}={value}" for key, value in MODELS[name].items()]


@pytest.fixture(scope="module")
def single(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both, each on its own."""
    folder = tmp_path_factory.mktemp("single")
    for name in MODELS:
        run_here(*PROTOTYPES, *alone(name), f"teacher.weights={teacher}", f"output_dir={folder / name}")
    return {name: folder / name for name in MODELS}


@pytest.fixture(scope="module")
def both(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both in one run."""
    folder = tmp_path_factory.mktemp("both") / "run"
    run_here(*PROTOTYPES, students("narrow", "wide"), f"teacher.weights={teacher}", f"output_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def wide_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone as wide as a model of configs/model."""
    backbone = tiny.backbone(image_size=24, patch_size=6, embed_dim=192, depth=1, num_heads=3)
    path = tmp_path_factory.mktemp("wide") / "teacher.pth"
    torch.save(backbone.state_dict(), path)
    return path


def test_each_is_as_on_its_own(single: dict[str, Path], both: Path) -> None:
    assert sorted(path.name for path in both.iterdir()) == ["narrow", "results.json", "wide"]
    for name, folder in single.items():
        assert_same_run(folder, both / name)
        digests = [read_weights(str(path / "backbone.safetensors")).digest() for path in (folder, both / name)]
        assert digests[0] == digests[1]


def test_each_has_a_run_folder(teacher: Path, both: Path) -> None:
    for name, model in MODELS.items():
        for file in ("config.yaml", "metrics.jsonl", "results.json", "backbone.safetensors", "skipped.txt"):
            assert (both / name / file).exists(), file
        config = yaml.safe_load((both / name / "config.yaml").read_text())
        assert config["students"] is None
        assert config["output_dir"] == str(both / name)
        assert config["name"] == f"distill_quickstart_{name}"
        assert model.items() <= config["model"].items()
        assert results(both / name)["finished"]
        assert results(both / name)["checkpoint"] == str(checkpoint(both / name))
        assert results(both / name)["teacher"]["path"] == str(teacher)
        assert manifest(both / name)["teacher"] == results(both / name)["teacher"]["digest"]
        assert {"knn_top1", "knn_top1_untrained", "knn_top1_teacher"} <= results(both / name).keys()


def test_several_by_features(teacher: Path, featured: Path, tmp_path: Path) -> None:
    """Their patches may differ. "narrow" is as large as the student of the other run."""
    entries = f"students=[{entry('wide', patch_size=4)},{entry('narrow')}]"
    run_here(*FEATURES, entries, f"teacher.weights={teacher}", f"output_dir={tmp_path / 'run'}")
    assert_same_run(featured, tmp_path / "run" / "narrow")
    assert losses(tmp_path / "run" / "wide")[6] < losses(tmp_path / "run" / "wide")[1]


def test_one_is_dropped_and_gone_on_with_later(teacher: Path, single: dict[str, Path], tmp_path: Path) -> None:
    words = (*PROTOTYPES, f"teacher.weights={teacher}", f"output_dir={tmp_path / 'run'}")
    stopped = run_here(*words, students("narrow", "wide"), stop_after=3)
    assert "stopped at step 3 of 6" in stopped.out
    run_here(*words, students("narrow"))
    assert_same_run(single["narrow"], tmp_path / "run" / "narrow")
    assert max(losses(tmp_path / "run" / "wide")) == 3
    assert not results(tmp_path / "run" / "wide")["finished"]
    resumed = run_here(*words, students("wide"))
    assert "wide: going on from" in resumed.out
    assert_same_run(single["wide"], tmp_path / "run" / "wide")


def test_all_go_on_after_an_interrupt(teacher: Path, single: dict[str, Path], tmp_path: Path) -> None:
    words = (*PROTOTYPES, students("wide", "narrow"), f"teacher.weights={teacher}", f"output_dir={tmp_path / 'run'}")
    run_here(*words, stop_after=1)
    resumed = run_here(*words)
    for name, folder in single.items():
        assert f"{name}: going on from" in resumed.out
        assert_same_run(folder, tmp_path / "run" / name)
        events = [row["event"] for row in rows(tmp_path / "run" / name) if "event" in row]
        assert events == ["interrupted", "resume"]


@pytest.mark.parametrize("method", METHODS)
def test_one_that_comes_late_is_waited_for(
    method: str, teacher: Path, single: dict[str, Path], featured: Path, tmp_path: Path
) -> None:
    words = (*METHODS[method], f"teacher.weights={teacher}", f"output_dir={tmp_path / 'run'}")
    run_here(*words, students("narrow"), stop_after=4)
    done = run_here(*words, students("narrow", "wide"))
    assert "narrow: going on from" in done.out
    for name in MODELS:
        assert list(losses(tmp_path / "run" / name)) == [1, 2, 3, 4, 5, 6]
    if method == "prototypes":
        for name, folder in single.items():
            assert_same_run(folder, tmp_path / "run" / name)
    else:
        run_here(*FEATURES, *alone("wide"), f"teacher.weights={teacher}", f"output_dir={tmp_path / 'wide'}")
        assert_same_run(tmp_path / "wide", tmp_path / "run" / "wide")
        assert_same_run(featured, tmp_path / "run" / "narrow")


def test_one_that_comes_when_all_others_are_done(teacher: Path, both: Path, tmp_path: Path) -> None:
    shutil.copytree(both / "narrow", tmp_path / "narrow")
    words = (*PROTOTYPES, f"teacher.weights={teacher}", f"output_dir={tmp_path}")
    done = run_here(*words, students("narrow", "wide"))
    assert "narrow: already finished: all 6 steps are done" in done.out
    assert done.out.count("distilled student") == 2
    assert "narrow: distilled student" in done.out
    assert done.out.count("frozen teacher  ") == 2  # in the banner and in the closing table
    for name in MODELS:
        assert_same_run(both / name, tmp_path / name)


def test_a_student_goes_on_as_a_run_of_its_own(teacher: Path, single: dict[str, Path], tmp_path: Path) -> None:
    words = (*PROTOTYPES, f"teacher.weights={teacher}")
    run_here(*words, students("narrow", "wide"), f"output_dir={tmp_path / 'run'}", stop_after=2)
    run_here(*words, *alone("wide"), f"output_dir={tmp_path / 'run' / 'wide'}")
    assert_same_run(single["wide"], tmp_path / "run" / "wide")


def test_names_alone(wide_teacher: Path, tmp_path: Path) -> None:
    """Each is the model of that name, in a folder of that name; what the keys of `model` say is not theirs."""
    words = ("optim.steps=1", "optim.global_batch=2", f"teacher.weights={wide_teacher}")
    run_here(*FEATURES, *words, "students=[vit_tiny,{model: vit_tiny, name: other}]", f"output_dir={tmp_path}")
    found = read_weights(str(tmp_path / "vit_tiny")).architecture
    assert (found.embed_dim, found.depth, found.image_size, found.patch_size) == (192, 4, 32, 4)
    assert_same_run(tmp_path / "vit_tiny", tmp_path / "other", step=1)


def test_the_teacher_looks_at_each_batch_once(teacher: Path, tmp_path: Path) -> None:
    original, sizes = FrozenTeacher.scores, []

    def scores(frozen: FrozenTeacher, cls: Tensor, patches: Tensor) -> Scores:
        sizes.append(len(cls))
        return original(frozen, cls, patches)

    words = (students("narrow", "wide"), f"teacher.weights={teacher}", "optim.steps=2", f"output_dir={tmp_path}")
    with mock.patch.object(FrozenTeacher, "scores", scores):
        run_here(*PROTOTYPES, *words)
    assert sizes == [16, 16]


def test_a_folder_of_several_is_no_teacher(both: Path, tmp_path: Path) -> None:
    line = refused(*DISTILLED, f"teacher.weights={both}", f"output_dir={tmp_path / 'run'}")
    assert line.startswith(f"error: teacher.weights: {both}: this folder holds several runs (narrow, wide)")


def spoil_wide(monkeypatch: pytest.MonkeyPatch, at: int, value: float) -> None:
    """Put a number into the gradient of "wide" in one step."""
    original = step._backward

    def spoilt(state: TrainState, *rest: Any) -> Any:
        outcome = original(state, *rest)
        gradient = next(state.student.parameters()).grad
        if state.step == at and gradient is not None and gradient.shape[-1] == 24:
            gradient.fill_(value)
        return outcome

    monkeypatch.setattr(step, "_backward", spoilt)


def test_a_student_that_diverges_is_given_up_and_the_others_go_on(
    teacher: Path, single: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_wide(monkeypatch, 2, float("nan"))
    words = (*PROTOTYPES, students("narrow", "wide"), f"teacher.weights={teacher}", f"output_dir={tmp_path / 'run'}")
    done = run_here(*words, status=1)
    assert done.line.startswith("error: wide: the loss or a gradient norm is not finite at step 2; nothing was updated")
    assert "wide: given up" in done.out
    assert_same_run(single["narrow"], tmp_path / "run" / "narrow")
    assert max(losses(tmp_path / "run" / "wide")) == 2
    assert not results(tmp_path / "run" / "wide")["finished"]
    monkeypatch.undo()
    # What went wrong put right, the same command goes on with it.
    run_here(*words)
    assert_same_run(single["wide"], tmp_path / "run" / "wide")


def test_a_stop_after_one_was_given_up_is_a_stop(
    teacher: Path, single: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' training is to go on; what became of all is told when they are done."""
    spoil_wide(monkeypatch, 2, float("nan"))
    words = (*PROTOTYPES, students("narrow", "wide"), f"teacher.weights={teacher}", f"output_dir={tmp_path / 'run'}")
    stopped = run_here(*words, stop_after=4)
    assert "wide: given up" in stopped.out
    assert "stopped at step 4 of 6" in stopped.out
    done = run_here(*words, status=1)
    assert done.line.startswith("error: wide: the loss or a gradient norm is not finite at step 2; nothing was updated")
    assert "narrow: going on from" in done.out
    assert_same_run(single["narrow"], tmp_path / "run" / "narrow")
    assert max(losses(tmp_path / "run" / "wide")) == 2
    assert [row["event"] for row in rows(tmp_path / "run" / "narrow") if "event" in row] == ["interrupted", "resume"]


def test_running_centers_and_accumulated_batches(teacher: Path, tmp_path: Path) -> None:
    """The centers are shared, move once per step, and go back with the student that is behind."""
    more = ("method.objective.targets=centering", "optim.micro_batch=4", f"teacher.weights={teacher}")
    run_here(*PROTOTYPES, *more, *alone("narrow"), f"output_dir={tmp_path / 'narrow'}")
    words = (*PROTOTYPES, *more, students("narrow", "wide"), f"output_dir={tmp_path / 'run'}")
    run_here(*words, stop_after=3)
    # As after a kill between the saves of two students.
    shutil.rmtree(checkpoint(tmp_path / "run" / "wide", 3))
    resumed = run_here(*words)
    assert "narrow: going on from" in resumed.out
    assert "(step 3 of 6)" in resumed.out
    assert "(step 2 of 6)" in resumed.out
    assert_same_run(tmp_path / "narrow", tmp_path / "run" / "narrow")
    assert any(name.startswith("method/") for name in stored(tmp_path / "run" / "wide"))


def test_an_overflow_is_of_one_student_alone(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_wide(monkeypatch, 1, float("inf"))
    half = ("runtime.precision=fp16", "runtime.initial_loss_scale=1024", "optim.steps=3", f"teacher.weights={teacher}")
    run_here(*PROTOTYPES, *half, students("narrow", "wide"), f"output_dir={tmp_path}")
    scales = {name: [row["loss_scale"] for row in rows(tmp_path / name) if "loss" in row] for name in MODELS}
    assert scales == {"narrow": [1024, 1024, 1024], "wide": [1024, 512, 512]}
    skipped = {name: [row["skipped_steps"] for row in rows(tmp_path / name) if "loss" in row] for name in MODELS}
    assert skipped == {"narrow": [0, 0, 0], "wide": [0, 1, 1]}


@pytest.mark.slow
def test_two_processes_learn_as_one(teacher: Path, tmp_path: Path) -> None:
    words = (*PROTOTYPES, students("narrow", "wide"), f"teacher.weights={teacher}", "method.objective.koleo_weight=0")
    run_here(*words, f"output_dir={tmp_path / 'one'}")
    run_command(command_of(*words, f"output_dir={tmp_path / 'two'}", processes=2), tmp_path)
    for name in MODELS:
        one, two = losses(tmp_path / "one" / name), losses(tmp_path / "two" / name)
        assert one.keys() == two.keys() == {1, 2, 3, 4, 5, 6}
        for number, loss in one.items():
            assert two[number] == pytest.approx(loss, abs=1e-5)
        assert results(tmp_path / "two" / name)["processes"] == 2


OWN = "embed_dim: 48, num_heads: 1, image_size: 24"


def test_students_made_of_the_model_of_the_experiment(teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lists = f"students=[{{name: same, {OWN}}}, {{name: shallow, depth: 1, {OWN}}}]"
    run_here(*FEATURES, lists, f"teacher.weights={teacher}", f"output_dir={folder}", "optim.steps=1")
    kept = {name: yaml.safe_load((folder / name / "config.yaml").read_text())["model"] for name in ("same", "shallow")}
    assert (kept["same"]["depth"], kept["shallow"]["depth"]) == (3, 1)
    assert kept["same"] | {"depth": 1} == kept["shallow"]
    assert kept["same"]["patch_size"] == 8
    found = results(folder)
    assert set(found) == {"same", "shallow"}
    assert found["same"]["students_of_the_job"] == ["same", "shallow"]


def test_a_folder_holds_one_kind_of_run(both: Path, teacher: Path, tmp_path: Path) -> None:
    weights, one = f"teacher.weights={teacher}", f"students=[{{name: a, {OWN}}}]"
    assert "holds the runs of several students" in refused(*DISTILLED, weights, f"output_dir={both}")
    run_here(*FEATURES, weights, f"output_dir={tmp_path}", "optim.steps=1")
    assert "holds a run of a single student" in refused(*FEATURES, weights, one, f"output_dir={tmp_path}")
    reserved = one.replace("name: a", "name: checkpoints")
    assert "a folder beside others" in refused(*FEATURES, weights, reserved, f"output_dir={both}")
