"""Results beside each other, and which differences are told from noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results_folders import depth, knn, make_results, segmentation

from dinotrain.commands.comparison import compare
from dinotrain.errors import UserError

TEST_2 = {"data": {"train": {"name": "cifar10"}, "test": {"name": "cifar10", "fingerprint": "test-2"}}}


def better(task: dict[str, Any], more: int) -> dict[str, Any]:
    """The same with `more` of the images right that were wrong."""
    value = task["arrays"]["value"].copy()
    value[np.flatnonzero(~value)[:more]] = True
    arrays = task["arrays"] | {"value": value}
    return task | {"arrays": arrays, "numbers": task["numbers"] | {"top1": 100 * float(value.mean())}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs a to e: the same network, one that is better, one by chance, one elsewhere, one without values."""
    make_results(tmp_path / "a", {"knn": knn(), "depth": depth()})
    make_results(tmp_path / "b", {"knn": better(knn(), 15)}, {"resolution": {"size": 196, "crop_fraction": 0.875}})
    make_results(tmp_path / "c" / "evaluations" / "cifar10", {"knn": knn(seed=4)})
    make_results(tmp_path / "d", {"knn": knn()}, TEST_2)
    make_results(tmp_path / "e", {"knn": {"numbers": {"top1": 70.0}}})
    return tmp_path


def compared(runs: Path, *names: str) -> tuple[int, dict[str, Any]]:
    out = runs / "out.json"
    status = compare([*(str(runs / name) for name in names), "--json", str(out)])
    return status, json.loads(out.read_text())


def row(text: str, name: str) -> list[str]:
    """Cells of a line, without the spaces between them."""
    line = next(line for line in text.splitlines() if line.split()[:1] == [name])
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_differences_are_told_from_noise_or_not(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, content = compared(runs, "a", "b", "c", "d", "e")
    output = capsys.readouterr().out
    assert status == 0
    assert "k-NN on cifar10" in output
    assert row(output, "run") == [
        *("run", "top-1 (%)", "95 % interval", "top-5", "top-1 k = 10", "top-1 k = 200"),
        *("less a", "95 % interval", "more than noise"),
    ]
    assert row(output, "a") == ["a", "78.8", "76.2 to 81.2", "93.8 %", "78.8 %", "77.3 %"]
    assert row(output, "b")[1:3] + row(output, "b")[6:] == [
        *("80.3", "77.7 to 82.6"),
        *("+1.50", "+0.80 to +2.30", "yes, better"),
    ]
    assert row(output, "c")[-3:] == ["-0.40", "-3.80 to +3.20", "no"]
    assert row(output, "d")[-1] == "not known"
    assert "d: no difference: measured on other test images" in output
    assert "e: no difference: values per image are missing" in output
    assert "Nothing to compare" not in output
    assert "left out" not in output
    assert "b: another protocol: resolution.size 196 instead of 224" in output
    assert "Depth on cifar10" in output
    found = {line["name"]: line for line in content["comparisons"][0]["lines"]}
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert found["b"]["verdict"] == "better"
    assert found["b"]["difference"]["value"] == pytest.approx(1.5)
    assert found["b"]["difference"]["share"] < 0.01
    assert found["c"]["verdict"] == "noise"
    assert found["c"]["interval"] == pytest.approx([75.8, 80.8], abs=0.06)
    assert found["d"]["why_not"] == "measured on other test images"
    assert found["e"]["numbers"] == {"top1": 70.0}
    assert found["b"]["protocol_differs"] == ["resolution.size 196 instead of 224"]


def test_what_a_task_found_is_no_other_protocol(tmp_path: Path) -> None:
    for name, found, k in (("a", 20, [10, 20]), ("b", 10, [10, 20]), ("c", 10, [10])):
        make_results(tmp_path / name, {"knn": knn() | {"protocol": {"k": k, "best_k": found}, "options": {"k": k}}})
    _, content = compared(tmp_path, "a", "b", "c")
    unlike = [line["protocol_differs"] for line in content["comparisons"][0]["lines"]]
    assert unlike == [[], [], ["k [10] instead of [10, 20]"]]


def test_of_errors_less_is_better(tmp_path: Path) -> None:
    task = depth()
    value = task["arrays"]["value"] * 0.8
    lower = task | {"numbers": {"rmse": float(value.mean())}, "arrays": task["arrays"] | {"value": value}}
    make_results(tmp_path / "a", {"depth": task})
    make_results(tmp_path / "b", {"depth": lower})
    _, content = compared(tmp_path, "a", "b")
    line = content["comparisons"][0]["lines"][1]
    assert line["verdict"] == "better"
    assert line["difference"]["high"] < 0
    _, content = compared(tmp_path, "b", "a")
    assert content["comparisons"][0]["lines"][1]["verdict"] == "worse"


def test_other_kinds_and_other_images_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = segmentation(), segmentation()
    other["arrays"] = other["arrays"] | {"rows": np.arange(1, 61)}
    make_results(tmp_path / "a", {"segmentation": one})
    make_results(tmp_path / "b", {"segmentation": other})
    make_results(tmp_path / "c", {"segmentation": one})
    _, content = compared(tmp_path, "a", "b", "c")
    lines = content["comparisons"][0]["lines"]
    assert lines[1]["why_not"] == "other images of the test set could be read"
    assert lines[2]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0, "share": 1.0}
    assert "+0.00 to +0.00" in capsys.readouterr().out


def test_a_run_brings_all_its_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    for step in (200, 400):
        make_results(run / "evaluations" / f"cifar10_{step}", {"knn": knn(seed=step)})
    (run / "results.json").write_text('{"loss": 3.0}')
    other = {"data": {"train": {"name": "cifar10"}, "test": {"name": "cifar10", "fingerprint": "small"}}}
    make_results(run / "evaluations" / "small", {"knn": knn(50)}, other)
    assert compare([str(run)]) == 0
    output = capsys.readouterr().out
    assert output.count("k-NN on cifar10") == 2
    assert "/cifar10_200" in output
    assert "/cifar10_400" in output


def watched(run: Path, steps: tuple[int, ...], **tasks: Any) -> Path:
    """A run whose checkpoints were evaluated one after another."""
    for step in steps:
        found = tasks or {"knn": knn(seed=step)}
        make_results(run / "evaluations" / f"cifar10_{step:08d}", found, {"weights": {"path": str(run), "step": step}})
    return run


def test_of_a_run_the_newest_step_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(tmp_path / "a", (200, 400, 600, 800))
    watched(tmp_path / "b", (100, 200, 300, 900))
    _, content = compared(tmp_path, "a", "b")
    output = capsys.readouterr().out
    lines = content["comparisons"][0]["lines"]
    assert [(line["name"], line["weights"]["step"]) for line in lines] == [("a", 800), ("b", 900)]
    assert row(output, "run")[:2] == ["run", "step"]
    assert "less a" in output
    assert "6 folders of earlier steps are left out; --all shows all steps." in output
    assert compare([str(tmp_path / "a"), str(tmp_path / "b"), "--all"]) == 0
    output = capsys.readouterr().out
    assert output.count("/cifar10_00000") == 2 * 4 + 1
    assert "less a/cifar10_00000200" in output
    assert "left out" not in output


@pytest.mark.parametrize(
    ("other", "changes", "reason"),
    [
        ({"depth": depth()}, {}, "no task was carried out for two of them"),
        ({"knn": knn()}, {"data": {"test": {"name": "other", "fingerprint": "x"}}}, "on the same data for two"),
        ({"knn": knn()}, TEST_2, "no task was measured on the same test images for two of them"),
    ],
)
def test_runs_with_nothing_in_common_are_told_so(
    other: dict, changes: dict, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(tmp_path / "a", {"knn": knn()})
    make_results(tmp_path / "b", other, changes)
    assert compare([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Nothing to compare: ")]
    assert reason in line


@pytest.mark.parametrize("place", ["start", "middle", "end", "cut"])
def test_damaged_values_per_image_are_told_in_a_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        path = make_results(tmp_path / name, {"knn": knn()}) / "per_image" / "knn.npz"
        np.savez_compressed(path, allow_pickle=False, **knn()["arrays"])
    content = bytearray(path.read_bytes())
    start = {"start": 0, "middle": 60, "end": len(content) - 40, "cut": 0}[place]
    content[start : start + 40] = bytes(range(200, 240))
    path.write_bytes(content[:100] if place == "cut" else content)
    assert compare([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "b: no difference: values per image are missing or damaged" in capsys.readouterr().out


def test_a_single_image_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, right in (("a", 0.0), ("b", 1.0)):
        make_results(tmp_path / name, {"knn": knn(1, correct=right)})
    assert compare([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    output = capsys.readouterr().out
    assert row(output, "b")[1:3] == ["100.0", "20.7 to 100.0"]
    assert "b: no difference: of a single test image there is no telling" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "compare: got nothing, expected at least two"),
        (["a"], "a, expected at least two folders with results"),
        (["a", "none"], "none: no such folder"),
        (["a", "empty"], "empty: no results of an evaluation there; expected results.json with tasks in it"),
        (["a", "damaged"], "damaged/results.json: damaged, it is not a JSON object"),
        (["a", "run"], "run/evaluations/x/results.json: damaged"),
        (["a", "a"], "a is given twice"),
        (["a", "b", "--jsn=x"], "--jsn=x: no such option"),
        (["a", "b", "--json"], "--json: expected the name of a file"),
        (["a", "b", "--json=none/x.json"], "--json: can't write to none/x.json"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], message: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    for name in ("empty", "damaged", "run/evaluations/x"):
        (runs / name).mkdir(parents=True)
    for name in ("damaged", "run/evaluations/x"):
        (runs / name / "results.json").write_text('{"tasks": {"knn"')
    with pytest.raises(UserError, match=r"^[^\n]+$") as error:
        compare(words)
    assert message in str(error.value)
