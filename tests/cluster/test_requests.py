"""From what was typed to runs: sweeps, and runs that go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dinotrain.cluster.options import LocalOptions, SlurmOptions
from dinotrain.cluster.record import Record, claim
from dinotrain.commands.config import compose_config
from dinotrain.commands.request import Requested, requested_runs, resumed_words
from dinotrain.errors import UserError

QUICK = "+experiment=quickstart"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(*words: str) -> list[Requested]:
    return requested_runs((QUICK, *words), multirun=True)


def refusal(*words: str, multirun: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        requested_runs(words, multirun=multirun)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_training_sees_nothing_of_the_cluster(tmp_path: Path) -> None:
    (run,) = requested_runs((QUICK, "cluster.nodes=2", "cluster.sbatch.reservation=x"), multirun=False)
    assert run.options == SlurmOptions(nodes=2, setup=[], sbatch={"reservation": "x"})
    expected = compose_config("train", (QUICK, f"output_dir={tmp_path}/runs/quickstart"))
    assert run.config == expected


def test_the_kind_of_cluster_is_chosen() -> None:
    (run,) = requested_runs((QUICK, "cluster=local", "cluster.tasks=2"), multirun=False)
    assert run.options == LocalOptions(tasks=2, setup=[])


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("cluster.node=3", "cluster.node: no such key; did you mean cluster.nodes?"),
        ("cluster=slrum", "cluster=slrum: no such cluster; did you mean slurm?"),
        ("cluster.nodes=two", "cluster.nodes: got 'two', expected a whole number"),
        ("cluster.check=all", "cluster.check: got 'all', expected one of full, keys"),
        ("+cluster.foo=1", "cluster.foo: no such key"),
        ("optim.stepz=3", "optim.stepz: no such key; did you mean optim.steps?"),
        ("seed=0,1", "seed=0,1: got several values; expected one, or a list as in 'seed=[0,1]', or -m before"),
        ("name=a(b", "name=a(b: cannot be read as key=value"),
        ("cluster.setup=[export A=b]", "cluster.setup=[export A=b]: cannot be read as key=[items]; quote each: "),
    ],
)
def test_mistakes_are_named_as_in_training(word: str, line: str) -> None:
    assert refusal(QUICK, "cluster.sbatch.x=1", word).startswith(line)


def test_there_must_be_a_cluster() -> None:
    assert refusal(QUICK, "~cluster") == "cluster: its keys are missing; expected cluster=slurm or cluster=local"


def test_an_array_has_a_run_for_each_combination_in_a_folder_of_its_own(tmp_path: Path) -> None:
    runs = sweep("seed=0,1", "optim.base_lr=choice(0.1,0.01)", "log_every=5")
    assert [run.run_dir.name for run in runs] == [
        "seed=0,optim.base_lr=0.1",
        "seed=0,optim.base_lr=0.01",
        "seed=1,optim.base_lr=0.1",
        "seed=1,optim.base_lr=0.01",
    ]
    assert {run.run_dir.parent for run in runs} == {tmp_path / "runs" / "quickstart"}
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]
    assert runs[1].words == [QUICK, "seed=0", "optim.base_lr=0.01", "log_every=5"]


def test_ranges_and_experiments_can_be_swept(tmp_path: Path) -> None:
    assert [run.config.seed for run in sweep("seed=range(1,4)")] == [1, 2, 3]
    runs = requested_runs(("+experiment=quickstart,distill_quickstart", "teacher.weights=x"), multirun=True)
    # Their folders are different anyway.
    assert [run.run_dir for run in runs] == [tmp_path / "runs" / run.config.name for run in runs]


def test_folders_that_are_named_by_a_key_stay(tmp_path: Path) -> None:
    runs = sweep("seed=0,1", "output_dir='/data/s${seed}'")
    assert [str(run.run_dir) for run in runs] == ["/data/s0", "/data/s1"]


def test_names_of_folders_have_no_slash_and_an_end() -> None:
    assert [run.run_dir.name for run in sweep("name='a/b','c'", "output_dir=x")] == ["name=a_b", "name=c"]
    names = [run.run_dir.name for run in sweep(f"name={'a' * 300}1,{'a' * 300}2", "output_dir=x")]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 255


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=0,0"], "-m: seed=0: twice the same run"),
        (["seed=0,1", "output_dir=a,a"], "-m: seed=0, output_dir=a: twice the same run"),
        (["cluster.nodes=1,2"], "cluster.nodes=1,2: the jobs of an array all ask for the same"),
        (["seed=0,1", "seed=3"], "seed=0,1: the key is given a second time"),
        (["seed=interval(0,3)"], "seed=interval(0,3): has no values to try one by one"),
        (["seed=0,1", "cluster=local"], "-m: got cluster=local, but an array needs a SLURM cluster"),
        (["optim.stepz=3,4"], "optim.stepz: no such key"),
    ],
)
def test_what_can_be_no_array_is_refused(words: Sequence[str], line: str) -> None:
    assert refusal(QUICK, *words, multirun=True).startswith(line)


def submitted(run_dir: Path, cwd: Path, *words: str) -> None:
    replace(Record.read(claim(run_dir)), job="7", words=list(words), cwd=str(cwd)).write()


def test_a_run_goes_on_as_it_was_submitted_but_for_the_new_words(tmp_path: Path) -> None:
    place, run_dir = tmp_path / "place", tmp_path / "my runs" / "a"
    place.mkdir()
    submitted(run_dir, place, QUICK, "cluster.nodes=2", "seed=3", "output_dir=../a", "optim.steps=5", "optim.steps=6")
    words, cwd = resumed_words("my runs/a", ["cluster.nodes=4", "seed=4"])
    assert cwd == place
    assert words == [QUICK, "cluster.nodes=4", "seed=4", f"output_dir='{run_dir}'", "optim.steps=6"]
    (run,) = requested_runs(words, multirun=False)
    assert (run.run_dir, run.config.seed, run.config.optim.steps) == (run_dir, 4, 6)
    assert isinstance(run.options, SlurmOptions)
    assert run.options.nodes == 4


def test_an_experiment_or_group_can_be_given_again(tmp_path: Path) -> None:
    submitted(tmp_path / "a", tmp_path, QUICK, "model=vits14", "crops=small_48")
    words, _ = resumed_words("a", ["model=vitb14", "experiment=vits14"])
    assert words[:3] == ["experiment=vits14", "model=vitb14", "crops=small_48"]


def test_on_another_kind_of_cluster_the_keys_of_the_first_are_dropped(tmp_path: Path) -> None:
    submitted(tmp_path / "a", tmp_path, QUICK, "cluster.nodes=2", "cluster.time=3h")
    words, _ = resumed_words("a", ["cluster=local", "cluster.tasks=1"])
    assert words == [QUICK, "cluster=local", "cluster.tasks=1", f"output_dir='{tmp_path}/a'"]


def started(folder: Path, command: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "environment.json").write_text(json.dumps({"command": command}))
    return folder


@pytest.mark.parametrize("start", ["python -m dinotrain.train", "python -u /src/dinotrain/train.py"])
def test_a_run_that_was_started_by_hand_goes_on_as_a_job(tmp_path: Path, start: str) -> None:
    started(tmp_path / "a", f"{start} {QUICK} 'name=a b' output_dir=b")
    words, cwd = resumed_words("a", ["seed=1"])
    assert words == [QUICK, "name=a b", f"output_dir='{tmp_path}/a'", "seed=1"]
    assert cwd == tmp_path


def test_a_run_of_several_students_goes_on_as_a_whole(tmp_path: Path) -> None:
    command = "python -m dinotrain.train +experiment=distill_quickstart students=[a,b]"
    for name in ("a", "b"):
        started(tmp_path / "run" / name, command)
    words, _ = resumed_words("run", [])
    assert words[:2] == ["+experiment=distill_quickstart", "students=[a,b]"]
    with pytest.raises(UserError, match=r"resume=run/a: is a student of another run; expected resume=.*/run$"):
        resumed_words("run/a", [])


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ("nowhere", "resume=nowhere: there is no such folder"),
        ("empty", "resume=empty: is not a run folder"),
        ("unknown", "resume=unknown: what was typed for it is not on record"),
        ("moved", "resume=moved: the folder where it was submitted is no longer there: /nowhere"),
    ],
)
def test_what_cannot_go_on_is_refused(tmp_path: Path, run: str, line: str) -> None:
    (tmp_path / "empty").mkdir()
    started(tmp_path / "unknown", "python notebook.py")
    submitted(tmp_path / "moved", Path("/nowhere"), QUICK)
    with pytest.raises(UserError, match=f"^{line}"):
        resumed_words(run, [])
