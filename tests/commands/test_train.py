"""The command as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_runs import losses, make_images, rows, run

from dinotrain.commands.usage import experiment_lines
from dinotrain.train import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done = run(folder, "evaluation.every=6", "logging.tensorboard=true")
    return folder, done.stdout


def test_the_run_folder_holds_everything(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for name in ("config.yaml", "metrics.jsonl", "results.json", "report.html", "skipped.txt", "environment.json"):
        assert (folder / name).exists(), name
    assert (folder / "checkpoints" / "step_00000012" / "manifest.json").exists()
    assert list((folder / "pictures").glob("*.png"))


def test_every_logged_row_has_the_promised_keys(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    logged = [row for row in rows(folder) if "loss" in row]
    assert [row["step"] for row in logged] == list(range(1, 13))
    for row in logged:
        for key in (
            "dino_loss",
            "ibot_loss",
            "koleo_loss",
            "lr",
            "images_per_second",
            "teacher_entropy",
            "effective_rank",
        ):
            assert isinstance(row[key], float), key
        total = row["dino_loss"] + row["ibot_loss"] + 0.1 * row["koleo_loss"]
        assert row["loss"] == pytest.approx(total, rel=0.5)


def test_evaluations_come_when_due_and_at_the_end(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert [row["step"] for row in rows(folder) if "knn_top1" in row] == [6, 12]
    first = rows(folder)[0]
    assert first["step"] == 0
    assert {"knn_top1_untrained", "knn_top1_pixels"} <= first.keys()


def test_the_results_say_what_was_reached(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 12
    assert results["finished"] is True
    assert results["images"] == 96
    for key in ("knn_top1", "knn_top1_untrained", "knn_top1_pixels", "seconds", "images_per_second", "peak_memory_gb"):
        assert results[key] >= 0, key


def test_the_banner_says_what_will_run(finished: tuple[Path, str]) -> None:
    _, output = finished
    for word in ("steps", "global batch", "learning rate", "tokens per step", "parameters", "precision", "attention"):
        assert word in output
    assert "report.html" in output
    assert "raw pixels" in output


def test_two_processes_see_the_same_batches_and_learn_the_same(tmp_path: Path) -> None:
    settings = ("method.objective.koleo_weight=0", "optim.steps=4")
    run(tmp_path / "one", *settings)
    run(tmp_path / "two", *settings, processes=2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() == {1, 2, 3, 4}
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, abs=1e-5)


def test_accumulation_gives_the_same_batch_where_the_losses_allow(tmp_path: Path) -> None:
    settings = ("method.objective.koleo_weight=0", "method.objective.targets=centering", "optim.steps=4")
    run(tmp_path / "whole", *settings)
    run(tmp_path / "parts", *settings, "optim.micro_batch=4")
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    for step, loss in whole.items():
        assert parts[step] == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
def test_compiled_blocks_learn_and_are_drawn(tmp_path: Path) -> None:
    run(tmp_path / "run", "runtime.compile=true", "optim.steps=2")
    assert list((tmp_path / "run" / "pictures").glob("*.png"))


def test_a_folder_without_labels_trains_without_knn(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 30)
    run(tmp_path / "run", "data=folder", f"data.root={images}", "optim.steps=3")
    assert losses(tmp_path / "run").keys() == {1, 2, 3}
    assert "knn_top1" not in json.loads((tmp_path / "run" / "results.json").read_text())


def test_a_folder_with_classes_is_evaluated(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 60, classes=3)
    run(tmp_path / "run", "data=folder", f"data.root={images}", "optim.steps=3")
    assert "knn_top1" in json.loads((tmp_path / "run" / "results.json").read_text())


def test_a_broken_file_is_listed_and_the_run_goes_on(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 30)
    (images / "0003.png").write_bytes(b"not a picture")
    run(tmp_path / "run", "data=folder", f"data.root={images}", "optim.steps=6")
    (line,) = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert "0003.png" in line


def test_too_many_broken_files_stop_the_run(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 30)
    for index in range(0, 30, 5):
        (images / f"{index:04d}.png").write_bytes(b"")
    done = run(tmp_path / "run", "data=folder", f"data.root={images}", status=1)
    assert "data.max_broken" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_mixture_takes_from_all_its_sets(tmp_path: Path) -> None:
    one, other = make_images(tmp_path / "one", 5), make_images(tmp_path / "other", 40, classes=2)
    parts = f"[{{data: folder, root: {one}, weight: 3, name: one}}, {{data: folder, root: {other}}}]"
    (other / "class_0" / "0000.png").write_bytes(b"")
    run(tmp_path / "run", "data=mix", f"data.sources={parts}", "optim.steps=12", "data.max_broken=1")
    (line,) = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert line.startswith("1_folder/class_0/0000.png\t")


MIX = ["+experiment=quickstart", "data=mix"]
MISTAKES = {
    "no data": (["+experiment=vitg14"], ["data.root is missing"]),
    "unknown experiment": (["+experiment=vitg"], ["no such experiment", "vitg14"]),
    "unknown key": (["+experiment=quickstart", "optim.stepz=3"], ["optim.stepz", "optim.steps"]),
    "unknown top key": (["+experiment=quickstart", "sede=3"], ["sede", "seed"]),
    "added key": (["+experiment=quickstart", "+optim.colour=3"], ["optim.colour", "no such key"]),
    "added top key": (["+experiment=quickstart", "+colour=3"], ["colour", "no such key"]),
    "wrong type": (["+experiment=quickstart", "optim.steps=many"], ["optim.steps", "many", "whole number"]),
    "wrong choice": (["+experiment=quickstart", "runtime.precision=fp8"], ["runtime.precision", "fp8", "bf16"]),
    "unknown option": (["+experiment=quickstart", "--quick"], ["--quick"]),
    "no steps": (["+experiment=quickstart", "optim.steps=0"], ["optim.steps", "at least 1"]),
    "crop and patch": (["+experiment=quickstart", "crops.global_size=33"], ["crops.global_size", "patch_size"]),
    "missing folder": (["+experiment=vits14", "data.root=/no/such/folder"], ["data.root", "/no/such/folder"]),
    "no GPU": (["+experiment=quickstart", "runtime.device=cuda"], ["runtime.device", "GPU"]),
    "unreadable override": (["+experiment=quickstart", "seed=[1"], ["seed=[1"]),
    "heads": (["+experiment=quickstart", "model.num_heads=7"], ["num_heads", "7"]),
    "batch": (["+experiment=quickstart", "optim.global_batch=10", "optim.micro_batch=4"], ["optim.micro_batch"]),
    "xformers": (["+experiment=quickstart", "runtime.attention=xformers"], ["runtime.attention", "sdpa"]),
    "log_every": (["+experiment=quickstart", "log_every=0"], ["log_every", "at least 1"]),
    "augment": (["+experiment=quickstart", "augment.flip=2"], ["augment.flip", "2"]),
    "wide blur": (
        ["+experiment=quickstart", "augment.blur_local=1", "augment.blur_kernel=99"],
        ["augment.blur_kernel", "99"],
    ),
    "prototypes": (
        ["+experiment=quickstart", "method.dino_head.num_prototypes=1"],
        ["method.dino_head.num_prototypes"],
    ),
    "statistics": (["+experiment=quickstart", "data.std=[0,0,0]"], ["data.std", "three numbers"]),
    "group off": (["+experiment=quickstart", "evaluation=null"], ["evaluation"]),
    "output": (["+experiment=quickstart", "output_dir=/dev/null/run"], ["output_dir", "/dev/null/run"]),
    "evaluation folder": (["+experiment=quickstart", "evaluation.train_root=/no/such"], ["evaluation.train_root"]),
    "nothing to mix": (["+experiment=quickstart", "data=mix"], ["data.sources is missing", "weight"]),
    "text to mix": ([*MIX, "data.sources=/some/folder"], ["data.sources", "/some/folder", "weight"]),
    "root of the built-in data": (["+experiment=quickstart", "data.root=/a"], ["data.root", "add data=folder"]),
    "unquoted range": (
        ["+experiment=quickstart", "data=shards", "data.root=/x-{0..3}.tar"],
        ["data.root", "quote", "'data.root=\"/x-{0..3}.tar\"'"],
    ),
    "URL as a folder": (
        ["+experiment=quickstart", "data=folder", "data.root=s3://a/b"],
        ["s3://a/b is a URL", "shards"],
    ),
    "window": (["+experiment=quickstart", "data=shards", "data.root=/a", "data.window=0"], ["data.window: got 0"]),
    "unknown part": ([*MIX, "data.sources=[{data: foldr, root: /a}]"], ["data.sources[0]", "did you mean folder"]),
    "unknown key of a part": ([*MIX, "data.sources=[{data: folder, rot: /a}]"], ["sources[0]", "did you mean root"]),
    "part without root": ([*MIX, "data.sources=[{data: folder}]"], ["data.sources[0]", "root is missing"]),
    "missing part": ([*MIX, "data.sources=[{data: folder, root: /no/such}]"], ["data.sources[0]", "/no/such"]),
    "weight": ([*MIX, "data.sources=[{data: embedded, weight: 0}]"], ["data.sources[0].weight", "above 0"]),
    "part's statistics": ([*MIX, "data.sources=[{data: embedded, mean: 3}]"], ["sources[0]", "mean: no such key"]),
    "storage": (["+experiment=quickstart", "storage.retries=-1"], ["storage.retries", "-1"]),
    "workers' augmentation": (
        ["+experiment=quickstart", "runtime.augment=workers", "runtime.compile_augment=true"],
        ["runtime.compile_augment"],
    ),
    "no group": (["+experiment=quickstart", "data=foldr"], ["no such data", "folder"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    if name in ("no GPU", "xformers") and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(words) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    for word in expected:
        assert word in line
    assert not list(tmp_path.rglob("*.jsonl")), "a mistake must not begin a run"


def test_options_of_file_systems_can_be_typed_and_secrets_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["storage.options={anon: false}", "storage.options.client_kwargs.aws_secret_access_key=hush"]
    assert main(["+experiment=quickstart", "--config", *options, "storage.options.endpoint_url=http://here"]) == 0
    shown = capsys.readouterr().out
    assert "endpoint_url: http://here" in shown
    assert "aws_secret_access_key: '...'" in shown
    assert "hush" not in shown


def test_help_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    for name, line in experiment_lines():
        assert name in output
        assert line


@pytest.mark.parametrize("name", [name for name, _ in experiment_lines()])
def test_every_experiment_composes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = [] if name.endswith("quickstart") else ["data.root=somewhere"]
    own += ["teacher.weights=something"] if name.startswith("distill") else []
    assert main([f"+experiment={name}", *own, "--config"]) == 0
    assert f"name: {name}" in capsys.readouterr().out
