"""The evaluation command on real weights and images: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from real_runs import SHORT, SMALL, environment, make_images, run_here

from dinotrain.evaluate import main

LIGHT = ("linear.steps=8", "linear.batch=16", "logistic.points=3", "clusters.restarts=1", "device=cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with three checkpoints."""
    run = tmp_path_factory.mktemp("trained") / "run"
    run_here("+experiment=quickstart", *SHORT, *SMALL, f"output_dir={run}", report=True)
    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Random images of three classes, apart for training and testing."""
    for split, count in (("train", 30), ("val", 12)):
        make_images(tmp_path / "images" / split, count, classes=3)
    return tmp_path / "images"


def evaluate(*words: str, status: int = 0) -> None:
    assert main(list(words)) == status


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run, which no other test has evaluated."""
    return shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("evaluations*"))


def results(folder: Path) -> dict[str, Any]:
    """Of the only evaluation below a folder."""
    (path,) = folder.rglob("results.json")
    return json.loads(path.read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which the command refuses."""
    evaluate(*words, status=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_results_lie_in_the_run_they_are_of(trained: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(trained, images.parent)
    evaluate("task=[knn,retrieval]", f"weights={run}", f"data.root={images}", "knn.k=[1,5]", *LIGHT)
    found = results(run / "evaluations")
    assert set(found["tasks"]) == {"knn", "retrieval"}
    assert found["weights"]["step"] == 6
    assert found["weights"]["digest"]
    assert found["data"]["train"]["images"] == 30
    assert found["data"]["test"]["images"] == 12
    knn = found["tasks"]["knn"]
    assert knn["numbers"]["top1"] == max(knn["numbers"]["top1_k1"], knn["numbers"]["top1_k5"])
    low, high = knn["interval"]
    assert 0 <= low <= knn["numbers"]["top1"] <= high <= 100
    assert found["versions"]["torch"]
    (folder,) = (run / "evaluations").glob("images_00000006_*")
    page = (folder / "report.html").read_text()
    assert "retrieval" in page
    for picture in knn["pictures"]:
        with Image.open(folder / picture["file"]) as image:
            assert image.width > 50
    printed = capsys.readouterr().out
    assert "report:" in printed
    assert f"{knn['numbers']['top1']:.1f}" in printed
    # The run's own report has the point, too.
    row = json.loads((run / "evaluations.jsonl").read_text().splitlines()[0])
    assert (row["step"], row["task"]) == (6, "knn")


def test_a_second_task_adds_to_the_first_and_computes_no_feature_again(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINOTRAIN_CACHE", str(tmp_path / "cache"))
    words = (f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", "knn.k=[3]", *LIGHT)
    evaluate("task=knn", *words)
    first = results(tmp_path / "out")["tasks"]["knn"]
    monkeypatch.setattr("dinotrain.models.vit.VisionTransformer.tokenize", None)
    evaluate("task=retrieval", *words)
    both = results(tmp_path / "out")["tasks"]
    assert set(both) == {"knn", "retrieval"}
    assert both["knn"] == first


def test_a_task_is_repeated_when_asked_to_or_changed(trained: Path, images: Path, tmp_path: Path) -> None:
    words = ("task=knn", f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", *LIGHT)
    evaluate(*words, "knn.k=[1]")
    seconds = results(tmp_path / "out")["tasks"]["knn"]["seconds"]
    evaluate(*words, "knn.k=[1]")
    assert results(tmp_path / "out")["tasks"]["knn"]["seconds"] == seconds
    evaluate(*words, "knn.k=[2]")
    assert "top1_k2" in results(tmp_path / "out")["tasks"]["knn"]["numbers"]
    evaluate(*words, "knn.k=[2]", "again=true")


def test_results_of_other_weights_are_not_overwritten(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task=knn", f"data.root={images}", f"output_dir={tmp_path / 'out'}", "knn.k=[1]", *LIGHT)
    first, *_, last = sorted((trained / "checkpoints").glob("step_*"))
    evaluate(f"weights={first}", *words)
    before = results(tmp_path / "out")
    capsys.readouterr()
    line = refused(capsys, f"weights={last}", *words)
    assert f"output_dir: {tmp_path / 'out'} holds results of other weights; expected another folder" in line
    assert results(tmp_path / "out") == before
    assert "of other precision" in refused(capsys, f"weights={first}", *words, "precision=bf16")
    evaluate(f"weights={last}", *words, "again=true")
    assert results(tmp_path / "out")["weights"]["step"] == 6


def test_the_folder_of_a_run_is_not_for_results(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task=knn", f"weights={trained}", f"data.root={images}")
    before = (trained / "results.json").read_text()
    assert "is the folder of a training run" in refused(capsys, *words, f"output_dir={trained}")
    assert "name: got '..'" in refused(capsys, *words, "name=..")
    assert (trained / "results.json").read_text() == before


def test_images_of_the_same_names_are_not_taken_for_each_other(trained: Path, images: Path, tmp_path: Path) -> None:
    other = shutil.copytree(images, tmp_path / "other")
    for path in (other / "val").rglob("*.png"):
        Image.new("RGB", (48, 40)).save(path)
    found = []
    for root in (images, other):
        evaluate("task=knn", f"weights={trained}", f"data.root={root}", f"output_dir={tmp_path / root.name}_r", *LIGHT)
        found.append(results(tmp_path / f"{root.name}_r"))
    assert found[0]["data"]["train"] == found[1]["data"]["train"] | {"name": "images"}
    assert found[0]["data"]["test"]["fingerprint"] != found[1]["data"]["test"]["fingerprint"]
    # All black: they are all of the class of one neighbour, or nearly so.
    assert found[1]["tasks"]["knn"]["numbers"]["top1_k10"] == pytest.approx(100 / 3)


def test_unreadable_images_are_counted(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next((images / "train").rglob("*.png"))
    broken.write_bytes(b"not an image")
    words = ("task=retrieval", f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", *LIGHT)
    assert "data.max_broken: 1 of the 30 train images can't be read" in refused(capsys, *words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("results.json"))
    evaluate(*words, "data.max_broken=0.1")
    assert results(tmp_path / "out")["tasks"]["retrieval"]["notes"] == ["1 of the train images could not be read"]
    for path in (images / "val").rglob("*.png"):
        path.write_bytes(b"not an image")
    assert "retrieval: data: none of the test images can be read" in refused(
        capsys, *words, "data.max_broken=1.0", f"output_dir={tmp_path / 'none'}"
    )


def test_two_tasks_at_once_lose_nothing_of_each_other(trained: Path, images: Path, tmp_path: Path) -> None:
    words = [f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", *LIGHT]
    jobs = [
        subprocess.Popen([sys.executable, "-m", "dinotrain.evaluate", f"task={task}", *words], env=environment())
        for task in ("knn", "retrieval")
    ]
    assert [job.wait(600) for job in jobs] == [0, 0]
    assert set(results(tmp_path / "out")["tasks"]) == {"knn", "retrieval"}


def test_a_run_is_evaluated_as_it_evaluated_itself(trained: Path, images: Path, tmp_path: Path) -> None:
    evaluate("task=knn", f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", *LIGHT)
    assert results(tmp_path / "out")["resolution"] == {"size": 24, "crop_fraction": 1.0}


def test_weights_that_nobody_may_write_beside_are_evaluated(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(trained, tmp_path)
    (run / "evaluations.jsonl").mkdir()  # which can't be opened, even by root
    evaluate("task=knn", f"weights={run}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", *LIGHT)
    printed = capsys.readouterr()
    assert "report:" in printed.out
    assert "does not get these points in its report" in printed.err


def test_all_is_what_the_images_allow(trained: Path, images: Path, tmp_path: Path) -> None:
    evaluate("task=all", f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}", *LIGHT)
    assert set(results(tmp_path / "out")["tasks"]) == {"knn", "logistic", "linear", "retrieval", "clusters"}


def test_without_test_images_a_tenth_is_held_out(trained: Path, tmp_path: Path, capsys: Any) -> None:
    root = make_images(tmp_path / "images", 40, classes=2)
    words = ("task=knn", f"weights={trained}", f"data.root={root}", f"output_dir={tmp_path / 'out'}", *LIGHT)
    evaluate(*words)
    data = results(tmp_path / "out")["data"]
    assert (data["train"]["images"], data["test"]["images"]) == (36, 4)
    assert "no test images: 4 of the 40 images are held out" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_find_what_one_finds(trained: Path, images: Path, tmp_path: Path) -> None:
    words = ["task=all", f"weights={trained}", f"data.root={images}", "cache=false", *LIGHT]
    for name, start in (("one", []), ("two", ["torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m"])):
        command = [sys.executable, "-m", *start, "dinotrain.evaluate", *words, f"output_dir={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600)
        assert done.returncode == 0, done.stderr
    one, two = (results(tmp_path / name)["tasks"] for name in ("one", "two"))
    for task in one:
        assert two[task]["numbers"] == pytest.approx(one[task]["numbers"], abs=1e-3), task


def test_weights_of_any_kind_are_evaluated(trained: Path, images: Path, tmp_path: Path) -> None:
    words = ("task=knn", f"data.root={images}", "knn.k=[1]", *LIGHT)
    evaluate(f"weights={trained}", f"output_dir={tmp_path / 'run'}", *words)
    evaluate(f"weights={trained / 'backbone.safetensors'}", f"output_dir={tmp_path / 'file'}", *words)
    run, file = (results(tmp_path / name) for name in ("run", "file"))
    assert run["weights"]["digest"] == file["weights"]["digest"]
    assert run["tasks"]["knn"]["numbers"] == file["tasks"]["knn"]["numbers"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("task=kn",), "task: got 'kn'; did you mean knn?"),
        (("task=5",), "task: got '5'; known: all, clusters"),
        (("task=[]",), "task: got [], expected a name"),
        (("task=knn,linear",), "task: got several values; a list is typed as 'task=[knn,linear]'"),
        (("mean=0.5",), "mean: got 0.5, expected three numbers"),
        (("extra_tests={test: /x}", "task=linear"), "extra_tests: got the name test, which is taken"),
        (("extra_tests={v2: IMAGES}",), "extra_tests: are for the linear task"),
        (("size=25",), "size: 25 px is not a multiple of the patches of 6 px of these weights; 24 is"),
        (("task=segmentation",), "task: segmentation: these images have no masks; expected data=masks"),
        (("task=multilabel",), "task: multilabel: these images have one label at most"),
        (("data.max_broken=few",), "data.max_broken: got 'few', expected a share in 0..1"),
        (("batch=0",), "batch: got 0, expected a whole number, at least 1"),
        (("knn.k=[0]",), "knn.k: "),
        (("knn.kk=3",), "knn.kk: no such key"),
        (("test_root=/nowhere",), "test_root: /nowhere"),
        (("extra_tests={v2: /nowhere}",), "extra_tests.v2: /nowhere"),
        (("device=tpu",), "device: got 'tpu', expected one of auto, cpu, cuda"),
        (("weights=/nowhere",), "weights: /nowhere: no such file or folder"),
        (("linear=5",), "linear: got 5, expected the keys of that group; did you mean task=linear?"),
    ],
)
def test_mistakes_are_told_in_one_line(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    usual = {"task": "task=knn", "weights": f"weights={trained}"}
    usual |= {word.partition("=")[0]: word for word in words}
    typed = [word.replace("IMAGES", str(images / "val")) for word in usual.values()]
    assert line in refused(capsys, *typed, f"data.root={images}")


def test_labels_that_differ_are_told(trained: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "val" / "class_1").rename(images / "val" / "lynx")
    line = refused(capsys, "task=knn", f"weights={trained}", f"data.root={images}")
    assert "class 'lynx' is not among the training images' (class_0, class_1, class_2)" in line


def test_images_without_labels_are_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_images(tmp_path / "images", 6)
    assert "task: knn: these images have no labels" in refused(
        capsys, "task=knn", f"weights={trained}", f"data.root={root}"
    )


def test_a_class_with_a_single_image_is_told(trained: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((images / "train" / "class_2").iterdir())[1:]:
        path.unlink()
    line = refused(capsys, "task=logistic", f"weights={trained}", f"data.root={images}", *LIGHT)
    assert "class class_2 has a single training image" in line


def test_more_neighbours_than_images_are_noted(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task=knn", f"weights={trained}", f"data.root={images}", f"output_dir={tmp_path / 'out'}")
    evaluate(*words, "knn.k=[10,500]", *LIGHT)
    assert "30" in " ".join(results(tmp_path / "out")["tasks"]["knn"]["notes"])
    assert "knn: " in capsys.readouterr().out


def test_each_checkpoint_of_a_run_is_evaluated_once(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(trained, tmp_path)
    words = ("watch", str(run), "task=knn", "knn.k=[1]", f"data.root={images}", *LIGHT)
    evaluate(*words)
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert len(list((run / "evaluations").glob("*/results.json"))) == 3
    assert "k-NN" in (run / "report.html").read_text()
    evaluate(*words)
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 3


def test_a_watch_waits_for_new_checkpoints(trained: Path, images: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path)
    late = run / "checkpoints" / "step_00000006"
    late.rename(tmp_path / "late")
    (run / "results.json").unlink()
    words = ["watch", str(run), "task=knn", "knn.k=[1]", f"data.root={images}", "poll=0.2", *LIGHT]
    process = subprocess.Popen(
        [sys.executable, "-m", "dinotrain.evaluate", *words], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: count_lines(run / "evaluations.jsonl") == 2)
        assert process.poll() is None
        (tmp_path / "late").rename(late)
        wait_until(lambda: count_lines(run / "evaluations.jsonl") == 3)
        shutil.copy(trained / "results.json", run / "results.json")
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "watch: got no run"),
        (("/nowhere",), "watch: /nowhere is not a run folder"),
        (("RUN", "weights=x"), "weights=x: watch evaluates the checkpoints of"),
        (("RUN", "poll=never"), "poll: got never, expected seconds above 0"),
        (("RUN", "once=1"), "once: got 1, expected true or false"),
    ],
)
def test_a_watch_of_nothing_is_refused(
    trained: Path, images: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    assert line in refused(
        capsys, "watch", *(word.replace("RUN", str(trained)) for word in words), f"data.root={images}"
    )


def wait_until(what: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
