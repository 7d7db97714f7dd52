"""The page on an evaluation, whatever state its folder is in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import read_page
from results_folders import depth, knn, linear, make_results, segmentation

from dinotrain.errors import UserError
from dinotrain.reporting.evaluation_report import main, write_evaluation_report
from dinotrain.reporting.quantities import lower_is_better, number_label, number_text, task_title
from dinotrain.reporting.results_folder import ResultsFolder


def page_of(folder: Path) -> str:
    return read_page(write_evaluation_report(folder), folder)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    tasks = {"knn": knn(), "linear": linear(), "segmentation": segmentation(), "depth": depth()}
    return page_of(make_results(tmp_path_factory.mktemp("runs") / "all", tasks))


def test_a_full_folder_shows_everything(full: str) -> None:
    for part in (
        "<h1>all</h1>",
        "data.root=&lt;here&gt;",
        "k-NN",
        "Linear classifier",
        "mIoU",
        "RMSE",
        "δ1",
        "top-1 k = 10",
        "runs/first",
        "run of this trainer, teacher at step 600",
        "ViT of 6 blocks x 192 channels, 3 heads, patch 8, 4 registers",
        "cifar10, 50,000 images, 10 classes",
        "k reduced from 200 to 150",
        "Accuracy over k",
        "chance",
        "Grid of the sweep (%)",
        "Nearest neighbours",
        "Query at the left",
        "Per class",
        "<summary>Protocol</summary>",
        "temperature",
        "train-1",
        "test-1",
        "6b1c9f0d",
        "torch 2.13.0",
        "data:image/png;base64,",
    ):
        assert part in full, part


def test_headlines_come_with_their_intervals(full: str) -> None:
    assert "95 % interval" in full
    found = re.search(r"<b>([\d.]+) %</b> <em>\[([\d.]+) to ([\d.]+)\]</em>", full)
    assert found
    value, low, high = map(float, found.groups())
    half = 196 * np.sqrt(value / 100 * (1 - value / 100) / 1000)
    assert low == pytest.approx(value - half, abs=0.4)
    assert high == pytest.approx(value + half, abs=0.4)
    assert re.search(r"<b>0\.\d{3} m</b> <em>\[0\.\d{3} to 0\.\d{3}\]</em>", full)


def test_cells_are_as_strong_as_their_numbers(full: str) -> None:
    strengths = {
        title: float(strength)
        for strength, title in re.findall(r'rgba\(59,130,246,([\d.]+)\)" title="([^"]+)"', full)
        if title.startswith("last")
    }
    assert strengths["last 4, CLS + patches, 0.01: 87"] == max(strengths.values()) == 0.72
    assert strengths["last 1, CLS, 1e-05: 59"] == 0


def test_the_page_needs_nothing_from_outside(full: str) -> None:
    for source in re.findall(r'(?:src|href)="([^"]*)"', full):
        assert source.startswith(("data:image/png;base64,", "#")), source
    assert "<script" not in full
    identifiers = re.findall(r' id="([^"]*)"', full)
    assert len(identifiers) == len(set(identifiers))


def test_a_minimal_folder_has_a_page(tmp_path: Path) -> None:
    page = page_of(make_results(tmp_path / "few", {"clusters": {"numbers": {"accuracy": 40.5, "nmi": 30.25}}}))
    assert "Clusters" in page
    assert "40.5 %" in page
    assert "NMI" in page
    assert "95 % interval" not in page
    (tmp_path / "none").mkdir()
    assert "no task is finished" in page_of(tmp_path / "none")


@pytest.mark.parametrize("name", ["results.json", "per_image/knn.npz", "pictures/knn_neighbours.png"])
def test_any_file_may_be_missing_or_damaged(name: str, tmp_path: Path) -> None:
    path = make_results(tmp_path / "run", {"knn": knn()}) / name
    path.write_bytes(b"PK\xff{]: [\n")
    page_of(tmp_path / "run")
    path.unlink()
    page = page_of(tmp_path / "run")
    assert ("is missing" in page) == name.startswith("pictures")


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": None},
        {"tasks": {"knn": None, "linear": {"numbers": [1], "protocol": "x", "notes": 3, "charts": {}}}},
        {"tasks": {"knn": {"numbers": {"top1": None, "top5": "high", "a<b": 1.0}, "seconds": "long", "per_image": 3}}},
        {"tasks": {"knn": {"charts": [{}, 1, {"series": [{"points": [[1]]}]}, {"series": [{"points": []}]}]}}},
        {"tasks": {"knn": {"matrices": [{"rows": ["a"], "columns": ["b"], "values": [[1, 2]]}, None]}}},
        {"tasks": {"knn": {"matrices": [{"rows": ["a"], "columns": ["b"], "values": [[None]]}]}}},
        {"tasks": {"knn": {"tables": [{"columns": ["a", "b"], "rows": [["x"], [None, 2, 3]]}, {"rows": 1}]}}},
        {"tasks": {"knn": {"pictures": [{}, {"file": None}, {"file": "../x.png"}], "notes": [None, "a<b"]}}},
        {"weights": "file.pth", "data": 3, "versions": None, "time": 5, "name": None},
        {"weights": {"architecture": "ViT", "step": "x"}, "data": {"train": None, "test": {"classes": ["a", "b"]}}},
    ],
)
def test_any_part_may_be_something_else(changes: dict, tmp_path: Path) -> None:
    page_of(make_results(tmp_path / "run", {"knn": knn(20)}, changes))


def test_an_interval_is_shown_only_of_the_number_that_it_is_of(tmp_path: Path) -> None:
    task = knn()
    task["numbers"] = {"best": 99.0, **task["numbers"]}
    found = ResultsFolder(make_results(tmp_path / "a", {"knn": task})).tasks[0]
    assert found.headline == "best"
    assert found.estimate is not None
    assert found.estimate.key == "top1"
    task["numbers"] = {"best": 99.0}
    assert ResultsFolder(make_results(tmp_path / "b", {"knn": task})).tasks[0].estimate is None


def test_a_marked_cell_is_outlined(tmp_path: Path) -> None:
    task = linear()
    task["matrices"][0] |= {"marked": [3, 5]}
    page = page_of(make_results(tmp_path / "a", {"linear": task}))
    assert re.findall(r'class="marked"[^>]*title="([^"]*)"', page) == ["last 4, CLS + patches, 0.01: 87"]
    task["matrices"][0] |= {"marked": "none"}
    assert 'class="marked"' not in page_of(make_results(tmp_path / "b", {"linear": task}))


def test_bands_are_explained_only_where_there_are_any(tmp_path: Path, full: str) -> None:
    assert "Bands and brackets: 95 % interval" in full
    assert "Bands" not in page_of(make_results(tmp_path / "depth", {"depth": depth()}))
    task = knn()
    # The interval is not of the headline.
    task["numbers"] = {"best": 99.0, **task["numbers"]}
    page = page_of(make_results(tmp_path / "a", {"knn": task}))
    assert "rackets" not in page
    assert '<p class="note"></p></section>' not in page


def test_tasks_on_whole_images_say_their_own_size(tmp_path: Path) -> None:
    dense = {
        name: task | {"protocol": {"size": 96}} for name, task in (("depth", depth()), ("segmentation", segmentation()))
    }
    page = page_of(make_results(tmp_path / "a", dense))
    assert "<td>Depth 96 px; Segmentation 96 px</td>" in page
    page = page_of(make_results(tmp_path / "b", {"knn": knn(), **dense}))
    assert "<td>size 224, crop_fraction 0.875; Depth 96 px; Segmentation 96 px</td>" in page


def test_numbers_that_are_none_do_not_break_the_page(tmp_path: Path) -> None:
    nan, task = float("nan"), knn()
    task["numbers"] |= {"top5": nan}
    task |= {"interval": [nan, nan], "seconds": nan}
    task["matrices"][0]["values"][0] = [nan] * 10
    task["charts"][0]["series"][0]["points"][0] = [10, nan]
    other = {"numbers": {"top1": nan, "top5": 3.0}, "protocol": {"size": nan}}
    page = page_of(make_results(tmp_path / "run", {"knn": task, "linear": other, "depth": {"numbers": {"rmse": nan}}}))
    assert "78.8 %" in page
    assert re.search(r"\bnan\b", page.split("<summary>Protocol")[0]) is None


def test_many_classes_are_a_picture(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(120)]
    values = np.eye(120).tolist()
    task = {"numbers": {"top1": 1.0}, "matrices": [{"title": "M", "rows": names, "columns": names, "values": values}]}
    page = page_of(make_results(tmp_path / "run", {"knn": task}))
    assert "120 rows, class 0 to class 119" in page
    assert len(page) < 60_000


def test_numbers_have_their_names_and_units() -> None:
    assert [number_label(key) for key in ("top1_k10", "abs_rel", "delta1", "map", "recall_at_5")] == [
        "top-1 k = 10",
        "AbsRel",
        "δ1",
        "mAP",
        "recall at 5",
    ]
    assert number_text("top1", 81.25) == "81.2 %"
    assert number_text("rmse", 0.4567) == "0.457 m"
    assert number_text("abs_rel", 0.1) == "0.100"
    assert number_text("rmse_log", 0.1) == "0.100"
    assert lower_is_better("rmse")
    assert number_text("rmse_last4", 0.1) == "0.100 m"
    assert number_text("nmi", 54.75) == "54.8 %"
    assert [lower_is_better(key) for key in ("abs_rel_last4", "map", "nmi", "delta1")] == [True, False, False, False]
    assert task_title("my_task") == "My task"


def test_the_command_rebuilds_it(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "run", {"depth": depth()})
    words = [sys.executable, "-m", "dinotrain.reporting.evaluation_report", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "report.html")


def test_a_wrong_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such folder of results"):
        write_evaluation_report(tmp_path / "nothing")
    assert main([str(tmp_path / "nothing")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main([]) == 2
