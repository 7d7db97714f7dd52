"""The command that submits, with commands in the place of SLURM's that only write down what they are given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_slurm import FakeSlurm
from omegaconf import OmegaConf
from real_runs import SHORT

from dinotrain.cluster.record import claim, latest, records
from dinotrain.commands.submit import main
from dinotrain.train import main as train

QUICK = ("+experiment=quickstart", *SHORT, "cluster.gpus_per_node=0", "cluster.time=20h")
LAUNCHER = Path(__file__).parents[2] / "launch" / "slurm.py"


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.path)
    monkeypatch.setattr("dinotrain.commands.submission_check.machine_folder", lambda path: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fake


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> Said:
        status = main(words)
        printed = capsys.readouterr()
        return Said(status, printed.out, printed.err)

    return call


@pytest.fixture
def refusal(say, tmp_path: Path):
    """The one line of a submission that is refused, which leaves nothing behind."""

    def call(*words: str, leaves: tuple[str, ...] = ()) -> str:
        status, out, err = say(*words)
        assert (status, out) == (1, "")
        assert len(err.splitlines()) == 1, err
        assert sorted(path.name for path in (tmp_path / "here").glob("runs/*")) == sorted(leaves)
        return err.strip()

    return call


def test_usage_is_printed_at_once_and_without_anything_heavy() -> None:
    code = (
        "import sys; from dinotrain.commands.submit import main; status = main(sys.argv[1:]); "
        "print(status, [name for name in ('torch', 'hydra', 'submitit') if name in sys.modules])"
    )
    for words, status in (([], 2), (["--help"], 0)):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("usage: ")
        assert done.stdout.splitlines()[-1] == f"{status} []"


def test_the_script_runs_from_anywhere_without_installation(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-I", LAUNCHER], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"usage: python {LAUNCHER} +experiment=NAME" in done.stdout


def test_a_job_is_written_down_and_submitted(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    status, out, err = say(*QUICK, "cluster.nodes=2", "cluster.setup=[module load cuda]", "seed=3")
    run_dir = tmp_path / "here" / "runs" / "quickstart"
    assert (status, err) == (0, "")
    for word in ("job 7: quickstart, 2 nodes x 1 process", str(run_dir), "7_0_log.out", "follow", "status", "cancel"):
        assert word in out
    record = latest(run_dir)
    assert record is not None
    assert (record.job, record.cluster, record.nodes, record.tasks_per_node) == ("7", "slurm", 2, 1)
    assert record.words == [*QUICK, "cluster.nodes=2", "cluster.setup=[module load cuda]", "seed=3"]
    assert record.cwd == slurm.place == str(tmp_path / "here")
    config = OmegaConf.load(Path(record.folder) / "config.yaml")
    assert (config.output_dir, config.seed, "cluster" in config) == (str(run_dir), 3, False)
    assert json.loads(Path(record.logs, "records.json").read_text()) == [str(record.path)]
    assert Path(record.logs, "7_submitted.pkl").exists()
    assert Path(record.code["snapshot"], "dinotrain", "commands", "job.py").exists()


def test_the_script_asks_for_what_was_asked(slurm: FakeSlurm, say) -> None:
    words = (
        "gpus_per_node=2 cpus_per_task=4 partition=main account=12 qos=high constraint=fast exclude=[node3,node4] "
        "time=90m mem=60G signal_delay_s=300 sbatch.reservation=mine sbatch.exclusive=true sbatch.mail_type=END "
        "sbatch.comment=null sbatch.licenses=[a,b] nodes=2"
    )
    assert say(*QUICK, *(f"cluster.{word}" for word in words.split())).status == 0
    script = slurm.script
    assert script is not None
    options = set(re.findall(r"^#SBATCH (.+)$", script, re.MULTILINE))
    wanted = (
        "--nodes=2 --gpus-per-node=2 --ntasks-per-node=2 --cpus-per-task=4 --partition=main --account=12 --qos=high "
        "--constraint=fast --exclude=node3,node4 --time=90 --mem=60G --signal=USR2@300 --reservation=mine --exclusive "
        "--mail-type=END --licenses=a,b --requeue --open-mode=append --job-name=quickstart"
    )
    assert set(wanted.split()) <= options
    assert not any(option.startswith(("--comment", "--array", "--error")) for option in options)
    (srun,) = re.findall(r"^srun .+submitit.+$", script, re.MULTILINE)
    for option in ("--kill-on-bad-exit=1", "--open-mode=append", "--cpus-per-task=4", "%j_%t_log.out"):
        assert option in srun


def test_setup_comes_before_and_the_closing_after(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    assert say(*QUICK, "cluster.setup=[module load cuda,set -e]", "output_dir='runs/a b'").status == 0
    lines = [line for line in (slurm.script or "").splitlines() if line and not line.startswith("#")]
    folder = tmp_path / "here" / "runs" / "a b" / "jobs" / "0001"
    first = lines.index("module load cuda")
    assert lines[first : first + 5] == [
        "module load cuda",
        "set -e",
        "trap - EXIT ERR",
        "set +e",
        "export PYTHONSAFEPATH=1",
    ]
    assert lines[first + 5] == f"export PYTHONPATH='{folder}/code'${{PYTHONPATH:+:$PYTHONPATH}}"
    assert lines[-2].startswith("srun ")
    assert lines[-1] == f"{sys.executable} -m dinotrain.cluster.closing '{folder}/logs/records.json' $?"


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("no_such_command", 127, '"no_such_command" ended with status 127'),
        ("exit 3", 3, '"exit 3" ended with status 3'),
        ("ls /nowhere 2>/dev/null || true", 0, ""),
        ("if false; then x; fi", 0, ""),
    ],
)
def test_a_line_of_setup_that_fails_ends_the_script(
    slurm: FakeSlurm, say, tmp_path: Path, line: str, status: int, said: str
) -> None:
    assert say(*QUICK, f'cluster.setup=["{line}"]').status == 0
    script = (slurm.script or "").partition("# command")[0]
    for command, text in (("python", 'echo closing "${@: -1}"; exit "${@: -1}"'), ("srun", "exit 0")):
        (tmp_path / command).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / command).chmod(0o755)
    script = script.replace(sys.executable, str(tmp_path / "python"))
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x"}
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True)
    assert done.returncode == status
    assert (f"dinotrain: cluster.setup: {said}\nclosing {status}\n" in done.stdout) == bool(said)


@pytest.mark.parametrize(
    ("array", "job"), [({}, "7"), ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}, "7_0")]
)
def test_each_start_is_marked_in_the_logs_of_all_tasks(slurm: FakeSlurm, say, tmp_path: Path, array, job: str) -> None:
    assert say(*QUICK, "output_dir='runs/a b'").status == 0
    logs = tmp_path / "here" / "runs" / "a b" / "jobs" / "0001" / "logs"
    for name in (f"{job}_1_log.out", f"{job}_12_log.out", "7_5_1_log.out" if array else "8_1_log.out"):
        (logs / name).write_text("before\n")
    (line,) = [line for line in (slurm.script or "").splitlines() if line.startswith("for log in ")]
    environ = {"SLURM_JOB_ID": "9" if array else "7", "SLURM_RESTART_COUNT": "3", "PATH": os.environ["PATH"], **array}
    subprocess.run(["bash", "-uc", line], env=environ, check=True)
    marked = {path.name for path in logs.glob("*_log.out") if path.read_text() == "before\ndinotrain: start 3\n"}
    assert marked == {f"{job}_1_log.out", f"{job}_12_log.out"}


def test_without_a_snapshot_the_code_runs_from_where_it_is(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    assert say(*QUICK, "cluster.snapshot=false").status == 0
    assert f"export PYTHONPATH={LAUNCHER.parents[1]}" in (slurm.script or "")
    record = latest(tmp_path / "here" / "runs" / "quickstart")
    assert record is not None
    assert record.code["snapshot"] is None
    assert not Path(record.folder, "code").exists()


@pytest.mark.parametrize("array", [(), ("-m", "seed=0,1")])
def test_dry_prints_the_very_script_and_leaves_nothing(slurm: FakeSlurm, say, tmp_path: Path, array) -> None:
    words = (*array, *QUICK, "cluster.nodes=2", "cluster.sbatch.reservation=mine")
    status, out, err = say(*words, "cluster.dry=true")
    assert (status, err, slurm.script) == (0, "", None)
    assert not list((tmp_path / "here").iterdir())
    assert say(*words).status == 0
    assert out.strip() == (slurm.script or "").strip()


def test_dry_needs_no_slurm(say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status, out, _ = say(*QUICK, "cluster.gpus_per_node=8", "cluster.nodes=1", "cluster.dry=true")
    assert status == 0
    assert out.startswith("#!/bin/bash")


def test_without_slurm_another_way_is_named(say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status, _, err = say(*QUICK)
    assert status == 1
    assert "no sbatch on the PATH" in err
    assert "cluster=local" in err
    assert "launch/torchrun.sh" in err
    assert not list(tmp_path.iterdir())


def test_an_array_is_one_submission_of_several_runs(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    status, out, _ = say("-m", "seed=0,1,2", *QUICK)
    folders = [tmp_path / "here" / "runs" / "quickstart" / f"seed={seed}" for seed in range(3)]
    assert status == 0
    assert "array 7: 3 jobs, each of 1 node x 1 process" in out
    found = [latest(folder) for folder in folders]
    assert [record and record.job for record in found] == ["7_0", "7_1", "7_2"]
    shared = folders[0] / "jobs" / "0001"
    assert {record and record.logs for record in found} == {str(shared / "logs")}
    assert {record and record.code["snapshot"] for record in found} == {str(shared / "code")}
    assert json.loads((shared / "logs" / "records.json").read_text()) == [
        str(folder / "jobs" / "0001.json") for folder in folders
    ]
    assert [OmegaConf.load(folder / "jobs" / "0001" / "config.yaml").seed for folder in folders] == [0, 1, 2]
    assert "#SBATCH --array=0-2%3" in (slurm.script or "")


def test_one_wrong_run_keeps_the_whole_array_out(slurm: FakeSlurm, refusal) -> None:
    line = refusal("-m", "optim.base_lr=0.1,-1", *QUICK)
    assert line == "error: optim.base_lr=-1: optim.base_lr: got -1, expected a number above 0"
    assert slurm.script is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cluster.partition=nope"], "cluster.partition: got nope, but there is no such partition; there are: main"),
        (["cluster.gpus_per_node=4"], "cluster.gpus_per_node: got 4, but no node of partition main has more than 2"),
        (["cluster.time=2d"], "cluster.time: got 2d, but partition main allows 1d at most"),
        (["cluster.nodes=5"], "cluster.nodes: got 5, but partition main has only 4 such nodes"),
        (["cluster.nodes=3"], "optim.global_batch: 8 is not a multiple of the 3 processes"),
        (["cluster.nodes=2", "parallel.shard_size=3"], "parallel.shard_size: got 3, expected a divisor of the 2 proc"),
        (["cluster.gpus_per_node=1", "cluster.tasks_per_node=2"], "cluster.tasks_per_node: got 2, but there are 1 GPU"),
        (["train.start_from=/nowhere"], "train.start_from: "),
        (["train.start_from=/nowhere", "cluster.check=keys", "optim.base_lr=-1"], "optim.base_lr: got -1"),
        (["storage.options.secret=x"], "storage.options.secret: would be written to the job's files; give secrets"),
        (["output_dir=/proc/nothing"], "output_dir: can't write to /proc/nothing"),
        (["output_dir=/proc/nothing", "cluster.check=keys"], "output_dir: can't write to /proc/nothing"),
        (["output_dir=a%b"], "output_dir: got "),
        (["--verbose"], "--verbose: no such option"),
        (["resume=nowhere"], "resume=nowhere: there is no such folder"),
        (["-m", "resume=nowhere"], "resume: one run goes on at a time"),
        (["-m", "--config", "seed=0,1"], "--config: shows the configuration of one run"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_queued(slurm: FakeSlurm, refusal, words, line: str) -> None:
    assert refusal(*QUICK, *words).startswith(f"error: {line}")
    assert slurm.script is None


def test_what_only_the_nodes_see_need_not_be_here(slurm: FakeSlurm, say) -> None:
    words = ("+experiment=vits14", "data.root=/only/there", "cluster.gpus_per_node=2", "cluster.time=20h")
    small = ("cluster.cpus_per_task=1", "optim.global_batch=64")
    assert "/only/there" in say(*words, *small).err
    assert say(*words, *small, "cluster.check=keys").status == 0


def test_a_refusal_of_sbatch_leaves_nothing_that_looks_like_a_job(slurm: FakeSlurm, refusal) -> None:
    slurm.refuse("sbatch: error: Batch job submission failed: Invalid qos specification\n")
    assert refusal(*QUICK, "cluster.qos=gold").startswith("error: cluster.qos: gold is refused")
    assert refusal("-m", "seed=0,1", *QUICK, leaves=("quickstart",)).startswith("error: cluster.qos: null is refused")


def test_a_refusal_leaves_a_run_as_it_was(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    run_dir = tmp_path / "here" / "runs" / "quickstart"
    assert say(*QUICK).status == 0
    before = sorted(run_dir.rglob("*"))
    slurm.refuse("sbatch: error: no\n")
    assert say(*QUICK).err == "error: sbatch: no\n"
    assert sorted(run_dir.rglob("*")) == before


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING"])
def test_a_run_has_one_living_job(slurm: FakeSlurm, say, tmp_path: Path, state: str) -> None:
    assert say(*QUICK).status == 0
    slurm.jobs_are(state)
    err = say(*QUICK).err
    assert err.startswith(f"error: output_dir: job 7 of {tmp_path}/here/runs/quickstart is still alive ({state}")
    slurm.jobs_are("CANCELLED")
    assert say(*QUICK).status == 0
    assert len(records(tmp_path / "here" / "runs" / "quickstart")) == 2


def test_two_submissions_at_the_same_time_are_one(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    path = claim(tmp_path / "here" / "runs" / "quickstart")
    path.write_text(re.sub(r'"pid": \d+', '"pid": 1', path.read_text()))
    assert "another submission of" in say(*QUICK).err
    assert slurm.script is None


def test_a_run_goes_on_with_other_words_from_where_it_was_typed(
    slurm: FakeSlurm, say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "here" / "runs" / "quickstart"
    assert say(*QUICK, "cluster.nodes=2").status == 0
    monkeypatch.chdir(tmp_path)
    status, out, _ = say("resume=here/runs/quickstart", "cluster.nodes=4")
    assert status == 0
    assert "4 nodes x 1 process" in out
    assert slurm.place == str(tmp_path / "here")
    assert [record.nodes for record in records(run_dir)] == [2, 4]
    assert "--nodes=4" in (slurm.script or "")
    # And once more, by the words of the last time.
    assert say(f"resume={run_dir}").status == 0
    assert [record.nodes for record in records(run_dir)] == [2, 4, 4]


def test_a_finished_run_is_not_submitted(slurm: FakeSlurm, say, tmp_path: Path) -> None:
    run_dir = tmp_path / "here" / "runs" / "quickstart"
    run_dir.mkdir(parents=True)
    (run_dir / "results.json").write_text(json.dumps({"finished": True, "steps": 6}))
    assert "is finished already (all 6 steps)" in say(*QUICK).err
    (run_dir / "results.json").write_text(json.dumps({"a": {"finished": True, "steps": 6}, "b": {"finished": False}}))
    assert say(*QUICK).status == 0


def test_the_job_that_this_is_in_is_hidden_from_the_new_one(
    slurm: FakeSlurm, say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_CONF", "SBATCH_RESERVATION", "RANK", "SUBMITIT_EXECUTOR"):
        monkeypatch.setenv(name, "9")
    assert say(*QUICK).status == 0
    kept = {name for name in slurm.environment if name.startswith(("SLURM", "SBATCH", "SUBMITIT", "RANK"))}
    assert kept == {"SLURM_CONF", "SBATCH_RESERVATION"}


def test_what_the_user_has_set_for_all_jobs_counts_unless_it_is_said_otherwise(
    slurm: FakeSlurm, say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PARTITION", "long"), ("ACCOUNT", "lab"), ("TIMELIMIT", "5"), ("SIGNAL", "USR1")):
        monkeypatch.setenv(f"SBATCH_{name}", value)
    assert say(*QUICK, "cluster.account=other").status == 0
    assert {name for name in slurm.environment if name.startswith("SBATCH_")} == {"SBATCH_PARTITION"}
    assert "no node of partition long has GPUs" in say(*QUICK, "cluster.gpus_per_node=2").err


def test_a_folder_of_this_machine_alone_is_warned_of(
    slurm: FakeSlurm, say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dinotrain.commands.submission_check.machine_folder", lambda path: "is in /tmp")
    status, _, err = say(*QUICK)
    assert status == 0
    assert err.startswith("warning: output_dir: ")
    assert len(err.splitlines()) == 1


def test_the_configuration_is_shown_with_its_cluster(say) -> None:
    shown = OmegaConf.create(say(*QUICK, "cluster.nodes=3", "--config").out)
    assert (shown.cluster.nodes, shown.optim.steps) == (3, 6)


@pytest.mark.parametrize("words", [["status"], ["cancel", "--now"], ["follow"], ["follow", "a", "b"], ["status", "-x"]])
def test_looking_after_runs_needs_their_folders(say, words: list[str]) -> None:
    status, _, err = say(*words)
    assert status == 1
    assert re.match(rf"error: ({words[0]}: expected|-x: no such option of status)", err)


def test_training_knows_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert train([*QUICK[:1], "cluster.nodes=2"]) == 1
    assert "it is for launch/slurm.py, which submits training as a job" in capsys.readouterr().err
