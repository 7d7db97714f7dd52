"""The model card of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import yaml
from results_folders import depth, knn, make_results

from dinotrain.card import main

MEASURED = {
    "weights": {"path": "run", "layout": "run of this trainer, teacher at step 6", "digest": "6b1c", "step": 6},
    "data": {"train": {"name": "Cifar10"}, "test": {"name": "Cifar10", "fingerprint": "test-1", "images": 1000}},
}


@pytest.fixture
def run(teacher: Path, tmp_path: Path) -> Path:
    """A copy of a run of six steps."""
    return copytree(teacher, tmp_path / "run")


def card_of(run: Path, *words: str) -> str:
    assert main([str(run), *words]) == 0
    return (run / "MODEL_CARD.md").read_text()


def rows(card: str) -> list[list[str]]:
    """Cells of all lines of tables."""
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in card.splitlines() if line[:1] == "|"]


def value(card: str, name: str) -> str:
    return next(cells[1] for cells in rows(card) if cells[0] == name)


def front_matter(card: str) -> dict:
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(text)


def test_a_real_run_has_everything_that_is_on_record(run: Path) -> None:
    make_results(run / "evaluations" / "cifar10", {"knn": knn(), "depth": depth()}, MEASURED)
    card = card_of(run)
    told = front_matter(card)
    assert told["library_name"] == "dinotrain"
    assert "self-supervised-learning" in told["tags"]
    assert value(card, "width") == "64"
    assert value(card, "number of images") == "60"
    assert value(card, "fingerprint") == "embedded:1:train:60:48:0"
    assert "iBOT weight 0.2" in value(card, "loss")
    assert "num prototypes 48" in value(card, "iBOT head")
    assert value(card, "steps") == "6 of 6, 8 images each, 0.8 epochs"
    assert value(card, "precision") == "fp32, master weights fp32"
    assert value(card, "energy").endswith("(estimated)")
    found = rows(card)
    assert ["k-NN", "Cifar10", "top-1", "78.8 %", "76.2 to 81.2", "224 px; 1,000 test images"] in found
    assert any(cells[:3] == ["Depth", "Cifar10", "RMSE"] for cells in found)
    assert any(cells[0].startswith("k-NN while training: trained teacher") for cells in found)
    for task in ("Linear classifier", "Segmentation", "Retrieval"):
        assert [task, "", "", "not measured"] in [cells[:4] for cells in found]
    assert "distillation" not in told["tags"]


def test_parameters_are_those_of_the_checkpoint(run: Path) -> None:
    from dinotrain.weights.read import read_weights

    stored = read_weights(str(run)).backbone
    assert value(card_of(run), "parameters") == f"{sum(tensor.numel() for tensor in stored.values()):,} (counted)"


@pytest.mark.parametrize("kind", ["distilled", "featured"])
def test_a_student_names_its_teacher(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run = copytree(request.getfixturevalue(kind), tmp_path / "run")
    card = card_of(run)
    assert "distilled from a frozen teacher" in card
    recorded = json.loads((run / "results.json").read_text())["teacher"]
    # What is above the run's own folder tells of the machine.
    brief = "/".join(Path(recorded["path"]).parts[-2:])
    assert brief != recorded["path"]
    assert value(card, "teacher") == f"{brief}, content {recorded['digest']}"
    for key in ("teacher temperature", "freeze last layer"):
        assert (key in value(card, "optimizer")) == (kind == "distilled")
    assert "weight decay" in value(card, "optimizer")
    assert "frozen teacher by its" in value(card, "method")
    assert "distillation" in front_matter(card)["tags"]


def test_energy_is_of_stated_power_and_grid(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    (run / "results.json").write_text(json.dumps({"seconds": 36000.0, "steps": 6, "finished": True}))
    card = card_of(run, "watts=1000", "grid=0.1", "pue=1.2")
    assert value(card, "energy") == "12 kWh (estimated)"
    assert value(card, "CO2 equivalent") == "1.2 kg (estimated)"
    assert value(card, "time") == "10 h 00 min"
    assert "1,000 W for all machines together (stated)" in value(card, "basis")


def test_measured_power_is_said_to_be(run: Path) -> None:
    machine = {"cores": 10, "gpus": [{"name": "NVIDIA H200"}], "processes": 1}
    (run / "environment.json").write_text(json.dumps(machine))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 6, "time": 3600.0, "gpu_watts": 440.0}) + "\n")
    card = card_of(run, "grid=0.5", "pue=1")
    assert value(card, "energy") == "500 Wh (estimated)"
    assert value(card, "CO2 equivalent") == "250 g (estimated)"
    assert "GPUs at 440 W together (measured)" in value(card, "basis")
    assert value(card, "GPU hours") == "1"
    assert value(card, "hardware") == "1 x NVIDIA H200"


def test_the_latest_results_count_and_earlier_ones_say_their_step(run: Path) -> None:
    for name, step, correct in (("a", 2, 0.5), ("b", 4, 0.9)):
        weights = MEASURED["weights"] | {"step": step}
        make_results(run / "evaluations" / name, {"knn": knn(correct=correct)}, MEASURED | {"weights": weights})
    found = [cells for cells in rows(card_of(run)) if cells[0] == "k-NN"]
    assert len(found) == 1
    assert found[0][3].startswith("9") or found[0][3].startswith("8")
    assert found[0][5] == "224 px; 1,000 test images; weights of step 4"


def data_of(train: int, test: int) -> dict:
    """A draw of so many images."""
    names = {"train": train, "test": test}
    return {
        split: {"name": "Cifar10", "fingerprint": f"{split} {count}", "images": count} for split, count in names.items()
    }


def test_a_quick_look_does_not_replace_the_whole(run: Path) -> None:
    draws = (("a", 2, 0.5, 40, 1000), ("b", 2, 0.8, 500, 1000), ("c", 6, 0.2, 500, 50), ("d", 4, 0.9, 60, 1000))
    for name, step, correct, train, test in draws:
        changes = {"weights": MEASURED["weights"] | {"step": step}, "data": data_of(train, test)}
        make_results(run / "evaluations" / name, {"knn": knn(test, correct)}, changes)
    small = {"resolution": {"size": 48}, "data": data_of(500, 50)}
    make_results(run / "evaluations" / "e", {"knn": knn(50, 0.1)}, small)
    found = [cells for cells in rows(card_of(run)) if cells[0] == "k-NN"]
    assert len(found) == 1
    assert found[0][3] == "78.8 %"
    assert found[0][5] == "224 px; 500 training images; 1,000 test images; weights of step 2"


def test_results_elsewhere_are_found_while_they_are_the_run_s(run: Path, tmp_path: Path) -> None:
    task = depth() | {"protocol": {"size": 96}}
    folder = make_results(tmp_path / "elsewhere", {"depth": task}, MEASURED)
    row = {"step": 6, "data": "Cifar10", "task": "depth", "numbers": task["numbers"], "results": str(folder)}
    (run / "evaluations.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = [cells for cells in rows(card_of(run)) if cells[0] == "Depth"]
    assert found[1:3] == ["Cifar10", "RMSE"]
    assert found[5] == "96 px; 1,000 test images"
    # The folder was used for other weights since.
    make_results(tmp_path / "other", {"depth": task | {"numbers": {"rmse": 9.0}}}, MEASURED)
    (folder / "results.json").write_text((tmp_path / "other" / "results.json").read_text())
    (found,) = [cells for cells in rows(card_of(run)) if cells[0] == "Depth"]
    assert found[3] == "not measured"


def test_a_run_without_records_says_so(run: Path) -> None:
    for name in ("metrics.jsonl", "results.json", "environment.json"):
        (run / name).write_text("]")
    card = card_of(run)
    assert value(card, "energy") == "not measured"
    assert value(card, "time") == "not measured"
    assert value(card, "hardware") == "not on record"
    assert "Training is not finished" in card


def test_an_edited_card_is_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = card_of(run)
    path = run / "MODEL_CARD.md"
    # The license is the user's to choose; the card can be written anew all the same.
    path.write_text(
        card.replace("# license: choose one, such as apache-2.0; the data's may have a say", "license: mit")
    )
    assert front_matter(card_of(run))["license"] == "mit"
    path.write_text(path.read_text().replace("## Use and limits", "## Use and limits\n\nNot for cats."))
    assert main([str(run)]) == 1
    error = capsys.readouterr().err
    assert "force=true replaces it" in error
    assert error.count("\n") == 1
    assert "Not for cats." in path.read_text()
    assert main([str(run), f"out={run / 'other.md'}"]) == 0
    assert "Not for cats." not in card_of(run, "force=true")
    assert front_matter(path.read_text())["license"] == "mit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: not the folder of a run, there is no config.yaml in it"),
        (["several"], "it has several, such as several/small"),
        (["damaged"], "damaged/config.yaml: damaged"),
        (["empty"], "empty/config.yaml: says nothing of the model"),
        (["a", "b"], "got a b, expected the folder of one run"),
        (["--fast"], "got --fast, expected the folder of one run"),
        (["empty", "watt=3"], "watt: expected one of out=..., watts=..."),
        (["empty", "watts=many"], "watts: got many, expected a number"),
        (["empty", "watts=-1"], "watts: got -1, expected a number above 0"),
        (["empty", "pue=0.5"], "pue: got 0.5, expected a number of at least 1"),
        (["empty", "force=yes"], "force: got yes, expected true or false"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, text in (("several/small", "model: {}"), ("damaged", "model: ["), ("empty", "name: x")):
        Path(place).mkdir(parents=True)
        Path(place, "config.yaml").write_text(text)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_needs_nothing_heavy() -> None:
    heavy = "[m for m in ('torch', 'hydra', 'numpy', 'yaml') if m in sys.modules]"
    code = f"import sys, dinotrain.card as c; print(int(c.main(['--help'])), {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "0 []"
    assert done.stdout.startswith("usage: python -m dinotrain.card RUN")


def test_the_project_s_own_card_has_the_same_form(run: Path) -> None:
    own = (Path(__file__).parents[2] / "MODEL_CARD.md").read_text()
    assert front_matter(own).keys() - {"license"} == front_matter(card_of(run)).keys()
    headings = [line for line in card_of(run).splitlines() if line.startswith("## ")]
    assert [line for line in own.splitlines() if line.startswith("## ")] == headings
