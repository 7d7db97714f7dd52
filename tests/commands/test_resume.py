"""A run that was interrupted ends as if it had not been."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from real_runs import end, losses, make_images, rows, run, start, wait_for_file, wait_for_step
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder)
    return folder


def weights(run_dir: Path, step: int = 12) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint, flat."""
    path = run_dir / f"step_{step}.pt"
    dcp_to_torch_save(run_dir / "checkpoints" / f"step_{step:08d}", path)
    return dict(flatten(torch.load(path, weights_only=True)))


def flatten(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def assert_same(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert len(a) > 50
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert losses(one) == losses(other)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_a_random_step_and_started_again(uninterrupted: Path, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for_step(process, folder, random.Random(seed).randint(3, 10))
    end(process, signal.SIGKILL)
    # What the kill left half done must not stand in the way.
    run(folder)
    assert_same(uninterrupted, folder)
    assert not list((folder / "checkpoints").glob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_asked_to_stop_it_saves_says_how_to_go_on_and_ends_well(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "stopped"
    process = start(folder, "checkpoint.every=1000")
    wait_for_step(process, folder, 3)
    status, output = end(process, number)
    assert status == 75, output
    assert "the same command" in output
    assert (folder / "report.html").exists()
    (checkpoint,) = (folder / "checkpoints").glob("step_*")
    assert int(checkpoint.name[5:]) < 12
    done = run(folder)
    assert "going on from" in done.stdout
    assert_same(uninterrupted, folder)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "impatient"
    # Steps of many micro-batches, so that both signals arrive within one.
    process = start(folder, "optim.steps=100000", "optim.global_batch=4000", "optim.micro_batch=8")
    wait_for_file(process, folder / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    status, output = end(process, signal.SIGINT)
    assert status == 130, output
    assert "stopped at once" in output


def test_goes_on_with_another_number_of_processes(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    koleo_off = "method.objective.koleo_weight=0"
    whole = tmp_path / "whole"
    run(whole, koleo_off)
    process = start(folder, koleo_off)
    wait_for_step(process, folder, 4)
    end(process, signal.SIGTERM)
    run(folder, koleo_off, processes=2)
    one, two = weights(whole), weights(folder)
    for name, value in one.items():
        # The attention's key bias has no gradient but rounding, which Adam makes as large as any other.
        if name.startswith(("student", "teacher")) and not name.endswith("qkv.bias"):
            torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)


def test_a_finished_run_says_so_and_changes_nothing(uninterrupted: Path) -> None:
    before = (uninterrupted / "metrics.jsonl").read_text()
    done = run(uninterrupted)
    assert "already finished" in done.stdout
    assert (uninterrupted / "metrics.jsonl").read_text() == before


def test_another_recipe_is_refused_with_the_differences(uninterrupted: Path) -> None:
    done = run(uninterrupted, "optim.base_lr=0.123", "seed=7", status=1)
    assert "optim.base_lr" in done.stderr
    assert "0.123" in done.stderr
    assert "seed: 0 -> 7" in done.stderr
    assert "resume.allow_changes=true" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_does_not_change_results_may_change(uninterrupted: Path) -> None:
    run(uninterrupted, "log_every=5", "checkpoint.every=3", "parallel.reshard_after_forward=false")


def test_another_recipe_goes_on_when_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    run(folder, "optim.steps=4")
    run(folder, "optim.steps=6", status=1)
    run(folder, "optim.steps=6", "resume.allow_changes=true")
    assert max(losses(folder)) == 6


def test_a_damaged_checkpoint_is_named_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    run(folder, "optim.steps=4")
    file = next((folder / "checkpoints" / "step_00000004").glob("__0_*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = run(folder, "optim.steps=4", status=1)
    assert file.name in done.stderr
    assert "damaged" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_checkpoint_without_its_manifest_is_not_one(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    run(folder, "optim.steps=4")
    (folder / "checkpoints" / "step_00000004" / "manifest.json").unlink()
    done = run(folder, "optim.steps=4")
    assert "step_00000002" in done.stdout
    assert (folder / "checkpoints" / "step_00000004" / "manifest.json").exists()


def test_old_checkpoints_go_and_marked_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    run(folder, "checkpoint.every=1", "checkpoint.keep_last=2", "checkpoint.keep_every=5")
    kept = sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step_*"))
    assert kept == [5, 10, 11, 12]


def test_resuming_can_be_turned_off_but_never_overwrites(uninterrupted: Path) -> None:
    done = run(uninterrupted, "resume.enabled=false", status=1)
    assert "resume.enabled" in done.stderr


def test_events_are_on_record(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    process = start(folder)
    wait_for_step(process, folder, 3)
    end(process, signal.SIGTERM)
    run(folder)
    stop, restart = (row for row in rows(folder) if "event" in row)
    assert (stop["event"], stop["reason"]) == ("interrupted", "SIGTERM")
    assert (restart["event"], restart["step"]) == ("resume", stop["step"])
    assert json.loads((folder / "results.json").read_text())["restarts"] == 1


def test_a_restart_is_on_record_even_if_nothing_had_been_saved(tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    process = start(folder, "checkpoint.every=1000")
    wait_for_step(process, folder, 3)
    end(process, signal.SIGKILL)
    run(folder, "checkpoint.every=1000")
    assert [(row["event"], row["step"]) for row in rows(folder) if "event" in row] == [("resume", 0)]
    assert len(losses(folder)) == 12


def test_a_run_from_another_ones_checkpoint_goes_on_by_the_same_command(uninterrupted: Path, tmp_path: Path) -> None:
    origin = f"resume.checkpoint={uninterrupted / 'checkpoints' / 'step_00000004'}"
    process = start(tmp_path / "fork", origin)
    wait_for_step(process, tmp_path / "fork", 6)
    end(process, signal.SIGTERM)
    run(tmp_path / "fork", origin)
    one, other = weights(uninterrupted), weights(tmp_path / "fork")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fewer_steps_than_are_done_are_refused(uninterrupted: Path) -> None:
    done = run(uninterrupted, "optim.steps=5", "resume.allow_changes=true", status=1)
    assert "optim.steps" in done.stderr


def test_other_images_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", "optim.steps=2")
    done = run(tmp_path / "run", "optim.steps=2", "data.source.seed=1", status=1)
    assert "data.source.seed" in done.stderr
    assert "images themselves" in done.stderr


def test_images_may_move(tmp_path: Path) -> None:
    pictures = make_images(tmp_path / "here", 12)
    run(tmp_path / "run", "data=folder", f"data.root={pictures}", "optim.steps=2")
    moved = pictures.rename(tmp_path / "there")
    done = run(tmp_path / "run", "data=folder", f"data.root={moved}", "optim.steps=2")
    assert "already finished" in done.stdout
    (moved / "0000.png").unlink()
    done = run(tmp_path / "run", "data=folder", f"data.root={moved}", "optim.steps=2", status=1)
    assert "images themselves" in done.stderr


def test_parts_of_a_mixture_may_move(tmp_path: Path) -> None:
    pictures = make_images(tmp_path / "here", 12)
    mixture = ("data=mix", "optim.steps=2", "data.sources=[{data: folder, root: %s, weight: 2}, {data: embedded}]")
    run(tmp_path / "run", *mixture[:2], mixture[2] % pictures)
    moved = pictures.rename(tmp_path / "there")
    assert "already finished" in run(tmp_path / "run", *mixture[:2], mixture[2] % moved).stdout
    other = (mixture[2] % moved).replace("weight: 2", "weight: 3")
    assert "data.sources" in run(tmp_path / "run", *mixture[:2], other, status=1).stderr


def test_a_long_list_of_differences_is_cut_short(uninterrupted: Path) -> None:
    changes = [f"augment.{key}=0.3" for key in ("flip", "brightness", "contrast", "saturation", "hue", "grayscale")]
    changes += [f"crops.{key}=[0.3,0.5]" for key in ("global_scale", "local_scale", "ratio")]
    done = run(uninterrupted, *changes, status=1)
    assert done.stderr.count(" -> ") == 8
    assert "; and 1 more" in done.stderr
