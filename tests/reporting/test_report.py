"""The page on a run, whatever state its folder is in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from pages import read_page
from run_folders import make_run

from dinotrain.errors import UserError
from dinotrain.reporting.charts import MAX_POINTS, Chart, Series, svg, thinned
from dinotrain.reporting.elements import chart_card
from dinotrain.reporting.report import main, write_report
from dinotrain.reporting.run_folder import RunFolder
from dinotrain.reporting.task_points import task_points


def page_of(run: Path) -> str:
    return read_page(write_report(run), run)


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


def test_points_of_other_conditions_are_other_lines(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=40)
    ways = (
        (500, 48, "100 images x", 40.0),
        (500, 96, "100 images x", 50.0),
        (50, 48, "100 images x", 20.0),
        (500, 48, "20 images y", 60.0),
        (None, None, None, 10.0),
    )
    rows = []
    for step in (20, 40):
        for train, size, test, value in ways:
            seen = {} if size is None else {"resolution": {"size": size, "crop_fraction": 1.0}}
            told = {} if train is None else {"train": train, "fingerprint": test}
            rows.append(
                {"step": step, "task": "linear", "data": "a", "numbers": {"top1": value + step / 10}, **seen, **told}
            )
    alone = {"step": 20, "task": "knn", "data": "b", "numbers": {"top1": 70.0}, "train": 9, "fingerprint": "z"}
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, alone)))
    found = {(each.task, each.data): each.points for each in task_points(RunFolder(run))}
    assert found == {
        ("linear", "a (500 train, 48 px, 100 test)"): [(20, 42.0), (40, 44.0)],
        ("linear", "a (500 train, 96 px, 100 test)"): [(20, 52.0), (40, 54.0)],
        ("linear", "a (50 train, 48 px, 100 test)"): [(20, 22.0), (40, 24.0)],
        ("linear", "a (500 train, 48 px, 20 test)"): [(20, 62.0), (40, 64.0)],
        ("linear", "a"): [(20, 12.0), (40, 14.0)],
        ("knn", "b"): [(20, 70.0)],
    }
    page_of(run)


def test_numbers_that_are_none_do_not_break_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=40)
    nan = float("nan")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "time": nan, "loss": nan, "knn_top1": nan, "linear_top1": nan}) + "\n")
    row = {"step": 40, "task": "knn", "data": "a", "numbers": {"top1": 40.0}, "interval": [nan, nan], "train": nan}
    rows = [row, row | {"numbers": {"top1": nan}}, row | {"task": "depth", "resolution": {"size": nan}}]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {"knn_top1": nan, "steps": nan, "seconds": nan, "finished": True, "knn_top1_pixels": nan}
    (run / "results.json").write_text(json.dumps(results))
    assert "nan" not in page_of(run).lower().replace("nano", "")


def heights(drawn: str) -> dict[str, float]:
    """Of all texts of a drawing; less is further up."""
    found = re.findall(r"<text[^>]*>[^<]*</text>", drawn)
    places = {re.sub(r"<[^>]*>", "", text): re.search(r' y="([\d.]+)"', text) for text in found}
    return {text: float(place[1]) for text, place in places.items() if place}


@pytest.mark.parametrize("scale", [1.0, 2e-3, 1e6])
def test_a_legend_names_levels_and_lines_above_the_drawing(scale: float) -> None:
    many = [Series("validation", [(step, scale * (step % 7)) for step in range(50_000)])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = svg(Chart("A", [*many, Series("test", [(0, 3 * scale), (50_000, 3 * scale)], dashed=True)]), "a")
    found = heights(drawn)
    legend = found.pop("validation"), found.pop("test")
    assert legend[0] == legend[1]
    # Neither the numbers nor the power of ten above them come close.
    assert legend[0] + 8 < min(found.values())


@pytest.mark.parametrize("log", [False, True])
def test_steps_and_k_are_whole_numbers_on_axes(log: bool) -> None:
    points = [(float(k), 50.0 + k) for k in ((1, 2, 3) if not log else (1, 5, 10, 20, 50, 100, 200))]
    drawn = svg(Chart("A", [Series("top-1", points)], x_label="k", log_x=log), "a")
    places = re.findall(
        r">([^<>]+)</text>", drawn.split('id="matplotlib.axis_1"')[1].split('id="matplotlib.axis_2"')[0]
    )
    assert len(set(places)) == len(places) > 2
    assert all(re.fullmatch(r"[\d,]+", place) for place in places if place != "k"), places


def test_a_single_chart_is_as_wide_as_the_page() -> None:
    chart = Chart("A", [Series("loss", [(0.0, 1.0), (1.0, 2.0)])])

    def shape(beside: int) -> float:
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart_card(chart, "a", beside=beside))
        assert found
        return float(found[1]) / float(found[2])

    assert shape(0) > 3 > shape(1) > 2 > shape(2) == shape(5)


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
