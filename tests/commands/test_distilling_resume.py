"""A distillation that was interrupted, moved, or spread over processes ends as one that was not."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from real_runs import (
    DISTILLED,
    FEATURES,
    LARGE,
    TEACHER,
    assert_same_run,
    checkpoint,
    command_of,
    end,
    losses,
    refused,
    results,
    rows,
    run_command,
    run_here,
    start_command,
    wait_for_step,
)

from dinotrain.training.manifest import checksum
from dinotrain.weights.read import read_weights

METHODS = {"distilled": DISTILLED, "featured": FEATURES}


@pytest.mark.parametrize(("method", "step"), [("distilled", 1), ("featured", 4)])
def test_asked_to_stop_and_started_again(
    method: str, step: int, teacher: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "run"
    words = (*METHODS[method], f"teacher.weights={teacher}", f"output_dir={folder}")
    stopped = run_here(*words, stop_after=step)
    assert max(losses(folder)) == step
    assert f"stopped at step {step} of 6" in stopped.out
    assert not (folder / "backbone.safetensors").exists()
    assert not results(folder)["finished"]
    resumed = run_here(*words)
    assert f"step_{step:08d} (step {step} of 6)" in resumed.out
    assert [row["event"] for row in rows(folder) if "event" in row] == ["interrupted", "resume"]
    whole = request.getfixturevalue(method)
    assert_same_run(whole, folder)
    assert (folder / "parameters.txt").read_text() == (whole / "parameters.txt").read_text()
    handed, expected = (read_weights(str(path / "backbone.safetensors")) for path in (folder, whole))
    assert handed.digest() == expected.digest()
    assert (handed.architecture, handed.normalization) == (expected.architecture, expected.normalization)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_started_again(method: str, teacher: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "run"
    words = (*METHODS[method], f"teacher.weights={teacher}", f"output_dir={folder}")
    process = start_command(command_of(*words), tmp_path)
    wait_for_step(process, folder, 3)
    end(process, signal.SIGKILL)
    run_here(*words)
    assert_same_run(request.getfixturevalue(method), folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_learn_as_one(method: str, teacher: Path, tmp_path: Path) -> None:
    off = {"distilled": "method.objective.koleo_weight=0", "featured": "seed=1"}[method]
    words = (*METHODS[method], off, f"teacher.weights={teacher}")
    run_here(*words, f"output_dir={tmp_path / 'one'}")
    run_command(command_of(*words, f"output_dir={tmp_path / 'two'}", processes=2), tmp_path)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() == {1, 2, 3, 4, 5, 6}
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, abs=1e-5)
    found = [results(tmp_path / name)["teacher"] for name in ("one", "two")]
    assert found[0] == found[1]
    handed = [read_weights(str(tmp_path / name / "backbone.safetensors")).backbone for name in ("one", "two")]
    for name, value in handed[0].items():
        # The attention's key bias has no gradient but rounding, which Adam makes as large as any other.
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(handed[1][name], value, atol=2e-4, rtol=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another teacher of the same shape."""
    folder = tmp_path_factory.mktemp("other") / "run"
    run_here(*TEACHER, "seed=1", "optim.steps=1", f"output_dir={folder}")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_another_teacher_is_refused(
    method: str, teacher: Path, other: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = shutil.copytree(request.getfixturevalue(method), tmp_path / "run")
    bare = method == "featured"  # heads are not looked at
    read = [read_weights(str(path)) for path in (teacher, other)]
    here, there = ((each.without_heads() if bare else each).digest() for each in read)
    line = refused(*METHODS[method], f"teacher.weights={other}", f"output_dir={folder}")
    assert f"{folder} was started with another recipe: the teacher itself: {here} -> {there}" in line
    assert "resume.allow_changes=true" in line
    part = refused(*METHODS[method], f"teacher.weights={teacher}", "teacher.part=student", f"output_dir={folder}")
    assert "the teacher itself" in part


@pytest.mark.parametrize("method", METHODS)
def test_a_teacher_may_move_and_change_its_form(
    method: str, teacher: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, weights = tmp_path / "run", read_weights(str(teacher))
    shutil.copytree(teacher, tmp_path / "here")
    words = (*METHODS[method], f"output_dir={folder}")
    run_here(*words, f"teacher.weights={tmp_path / 'here'}", stop_after=3)
    (tmp_path / "here").rename(tmp_path / "there")
    parts = {"backbone": weights.backbone, **weights.heads}
    state = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
    torch.save({"teacher": state}, tmp_path / "teacher.pth")
    run_here(*words, f"teacher.weights={tmp_path / 'there'}", stop_after=4)
    run_here(*words, f"teacher.weights={tmp_path / 'teacher.pth'}")
    assert_same_run(request.getfixturevalue(method), folder)
    assert results(folder)["teacher"]["path"] == str(tmp_path / "teacher.pth")


def test_a_finished_distillation_says_so(teacher: Path, distilled: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(distilled, tmp_path / "run")
    done = run_here(*DISTILLED, f"teacher.weights={teacher}", f"output_dir={folder}")
    assert "already finished: all 6 steps are done" in done.out
    assert_same_run(distilled, folder)


def test_the_teacher_that_is_gone_is_named(teacher: Path, distilled: Path, tmp_path: Path) -> None:
    line = refused(*DISTILLED, f"teacher.weights={tmp_path / 'gone'}", f"output_dir={distilled}")
    assert f"teacher.weights: {tmp_path / 'gone'}: no such file or folder" in line


def test_a_run_without_teacher_does_not_go_on_with_one(teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "run")
    line = refused(*DISTILLED, *LARGE, f"teacher.weights={teacher}", f"output_dir={folder}")
    assert "was started with another recipe: the teacher itself: None -> " in line


def test_a_run_from_before_there_were_teachers_goes_on(teacher: Path, tmp_path: Path) -> None:
    """Its configuration lacks the groups and keys that came since."""
    folder = tmp_path / "run"
    shutil.copytree(teacher, folder)
    for step in (4, 6):
        place = checkpoint(folder, step)
        config = yaml.safe_load((place / "config.yaml").read_text())
        del config["train"], config["teacher"], config["students"], config["model"]["norm_eps"]
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        known = json.loads((place / "manifest.json").read_text())
        known["files"]["config.yaml"] = checksum(place / "config.yaml")
        del known["teacher"], known["frozen_steps"]
        (place / "manifest.json").write_text(json.dumps(known))
    shutil.rmtree(checkpoint(folder, 6))
    printed = run_here(*TEACHER, f"output_dir={folder}")
    assert "step 4 of 6" in printed.out
    assert_same_run(folder, teacher)
