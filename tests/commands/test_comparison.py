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
    assert row(output, "a") == ["a", "78.8", "76.3 to 81.3", "93.8 %", "78.8 %", "77.3 %"]
    assert row(output, "b")[1:3] + row(output, "b")[6:] == [
        *("80.3", "77.8 to 82.7"),
        *("+1.50", "+0.80 to +2.30", "yes, better"),
    ]
    assert row(output, "c")[-3:] == ["-0.40", "-3.80 to +3.20", "no"]
    assert row(output, "d")[-1] == "not known"
    assert "d: no difference: measured on other test images" in output
    assert "e: no difference: values per image are missing" in output
    assert "b: another protocol: resolution.size 196 instead of 224" in output
    assert "Depth on cifar10" in output
    found = {line["name"]: line for line in content["comparisons"][0]["lines"]}
    assert list(found) == ["a", "b", "c", "d", "e"]
    assert found["b"]["verdict"] == "better"
    assert found["b"]["difference"]["value"] == pytest.approx(1.5)
    assert found["b"]["difference"]["share"] < 0.01
    assert found["c"]["verdict"] == "noise"
    assert found["c"]["interval"] == pytest.approx([75.9, 80.9])
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
