"""The page on a run, whatever state its folder is in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import assert_balanced
from run_folders import make_run

from dinotrain.errors import UserError
from dinotrain.reporting.charts import MAX_POINTS, thinned
from dinotrain.reporting.report import main, write_report


def page_of(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text()
    assert_balanced(page)
    return page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(make_run(tmp_path_factory.mktemp("runs") / "small", all_keys=True))


def test_a_finished_run_shows_everything(finished: str) -> None:
    for part in (
        "<h1>small</h1>",
        ">finished<",
        "70.0 %",
        "GiB",
        "30.2 %",
        "35.5 %",
        "k-NN over steps",
        "k-NN over time",
        "Total loss",
        "DINO and iBOT terms",
        "ln K",
        "Learning rate",
        "Momentum",
        "Teacher temperature",
        "Gradient norms",
        "Effective rank",
        "Prototypes used",
        "Throughput",
        "Waiting for data",
        "Processor &lt;X&gt;",
        "num_prototypes: 1024",
        "800",
        "Wh",
    ):
        assert part in finished, part
    assert "Loss scale" not in finished


def test_the_page_needs_nothing_from_outside(finished: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', finished)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "<script" not in finished
    assert "@import" not in finished
    assert "url(http" not in finished


def test_ids_are_not_shared_between_charts(finished: str) -> None:
    definitions = re.findall(r'<clipPath id="([^"]*)"', finished)
    assert len(definitions) == len(set(definitions)) > 10


def test_charts_take_the_colours_of_the_page(finished: str) -> None:
    assert "currentColor" in finished
    assert "#010203" not in finished


def test_the_latest_picture_comes_first_and_earlier_ones_are_folded(finished: str) -> None:
    latest, earlier = finished.index("features_00000100"), finished.index("features_00000020")
    assert latest < finished.index("<summary>Earlier</summary>") < earlier


def test_an_interrupted_run_says_how_far_it_came(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", steps=40, finished=False))
    assert "interrupted at step 40 of 100" in page
    assert "events" in page


def test_a_killed_run_is_reported_from_its_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=50)
    (run / "results.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]) + '{"step": 51, "lo')
    page = page_of(run)
    assert "last record at step 50 of 100" in page
    assert "46.0 %" in page
    assert "Total loss" in page


def test_results_of_an_earlier_part_do_not_cover_what_came_after(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=60, finished=False)
    earlier = {"knn_top1": 38.0, "steps": 20, "seconds": 40.0, "finished": False, "loss": 9.5}
    (run / "results.json").write_text(json.dumps(earlier))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 60, "time": 120.0, "event": "resume"}) + "\n")
    page = page_of(run)
    assert "last record at step 60 of 100" in page
    assert "54.0 %" in page
    assert "2 min" in page


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.yaml", "results.json", "environment.json", "skipped.txt", "pictures"]
)
def test_any_file_may_be_missing_or_damaged(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    path = run / name
    if path.is_dir():
        for picture in path.iterdir():
            picture.unlink()
        path.rmdir()
    else:
        path.write_bytes(b"\xff{]: [\n")
        page_of(run)
        path.unlink()
    page_of(run)


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    assert "dinotrain" in page_of(tmp_path)


def test_tasks_evaluated_while_training_and_beside_it_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=40)
    with (run / "metrics.jsonl").open("a") as file:
        for step in (20, 40):
            file.write(
                json.dumps({"step": step, "time": 3.0, "linear_top1": 50.0 + step / 2, "linear_top5": 90}) + "\n"
            )
    rows = [
        {"step": step, "task": task, "data": data, "numbers": numbers, "interval": [58.5, 81.0]}
        for step in (40, 20)
        for task, data, numbers in (
            ("linear", "cifar10", {"top1": 60.0 + step / 4, "top5": 95.0}),
            ("linear", "<mine>", {"top1": 30.0}),
            ("depth", "nyu", {"rmse": 0.5 - step / 400, "delta1": 90.0}),
        )
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "evaluations.jsonl").write_text(text + '{"step": 40}\n["task"]\n{"step": 60, "ta')
    page = page_of(run)
    for part in (
        "<h3>Evaluations</h3>",
        "Linear classifier: top-1",
        "Depth: RMSE",
        "<em>top-1, cifar10, step 40</em>",
        "<em>top-1, step 40</em>",
        "<b>70.0 %</b> <em>[58.5 to 81.0]</em>",
        "&lt;mine&gt;",
        "0.400 m",
        "while training",
    ):
        assert part in page, part


def test_warnings_skipped_files_and_dumps_are_listed_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "warning": "rank < 4 & falling"}) + "\n")
    (run / "skipped.txt").write_text("".join(f"<b>{i}.png\ttruncated\n" for i in range(60)))
    (run / "nonfinite_step_7_process_0.json").write_text("{}")
    page = page_of(run)
    assert "rank &lt; 4 &amp; falling" in page
    assert "&lt;b&gt;3.png" in page
    assert "and 10 more" in page
    assert "nonfinite_step_7_process_0.json" in page


def test_the_charts_of_long_runs_stay_small() -> None:
    points = [(float(step), 2.0 * step) for step in range(100_000)]
    few = thinned(points)
    assert len(few) == MAX_POINTS
    assert all(y == pytest.approx(2 * x) for x, y in few)
    assert thinned(points[:10]) == points[:10]


def test_the_command_rebuilds_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    done = subprocess.run(
        [sys.executable, "-m", "dinotrain.reporting.report", str(run)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run / "report.html")


def test_a_wrong_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nothing")
    assert main([str(tmp_path / "nothing")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main([]) == 2
