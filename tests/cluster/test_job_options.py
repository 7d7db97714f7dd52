"""The keys of the group `cluster`: what is taken, and how the rest is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dinotrain.cluster.capacity import check_capacity
from dinotrain.cluster.options import LocalOptions, SlurmOptions, parse_minutes
from dinotrain.cluster.refusals import explain
from dinotrain.cluster.scheduler import Partition
from dinotrain.errors import UserError


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("72h", 4320),
        ("90m", 90),
        ("2d", 2880),
        ("1d12h", 2160),
        ("1h30m", 90),
        ("30s", 1),
        ("1-12:00:00", 2160),
        ("1-12", 2160),
        ("2-0:30", 2910),
        ("12:30:00", 750),
        ("12:30", 13),
        (90, 90),
        ("90", 90),
        (0.5, 1),
    ],
)
def test_times_are_read_in_all_forms(written: Any, minutes: int) -> None:
    assert parse_minutes("cluster.time", written) == minutes


@pytest.mark.parametrize("written", ["", "soon", "1w", "0", 0, -5, "h", "1:2:3:4", "1d 2h", "-5m"])
def test_what_is_no_time_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r"^cluster\.time: got .*, expected a time such as 90m"):
        parse_minutes("cluster.time", written)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"nodes": 0}, "cluster.nodes: got 0, expected at least 1"),
        ({"gpus_per_node": -1}, "cluster.gpus_per_node: got -1, expected at least 0"),
        ({"tasks_per_node": 0}, "cluster.tasks_per_node: got 0, expected at least 1"),
        ({"requeues": -1}, "cluster.requeues: got -1, expected at least 0"),
        ({"mem": "480"}, "cluster.mem: got 480, expected a whole number with its unit such as 480G"),
        ({"time": "1m"}, "cluster.signal_delay_s: got 120, expected at least 1 and less than cluster.time (1 min)"),
        ({"sbatch": {"job-name": "x"}}, "cluster.sbatch.job-name: is set by name"),
        ({"sbatch": {"cpus_per_task": 1}}, "cluster.sbatch.cpus_per_task: is set by cluster.cpus_per_task"),
    ],
)
def test_wrong_values_are_named(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        SlurmOptions(**keys)


def test_a_process_runs_for_each_gpu_unless_it_is_said_otherwise() -> None:
    assert SlurmOptions(nodes=4).processes == 32
    assert SlurmOptions(nodes=4, gpus_per_node=0).processes == 4
    assert SlurmOptions(nodes=4, gpus_per_node=0, tasks_per_node=2).processes == 8


def test_a_single_line_of_setup_needs_no_list() -> None:
    assert SlurmOptions(setup="module load cuda").lines == ["module load cuda"]
    assert LocalOptions(setup=["a", "b"]).lines == ["a", "b"]


def test_a_local_job_has_no_limit_unless_one_is_given() -> None:
    assert LocalOptions().minutes is None
    assert LocalOptions(time="1h").minutes == 60
    with pytest.raises(ValueError, match=r"cluster\.requeues: got 6, expected 0 to 5"):
        LocalOptions(requeues=6)


NODES = (
    Partition("gpu", True, 8, 64, 512_000, 8, 3 * 86400),
    Partition("gpu", True, 2, 64, 1_024_000, 8, 3 * 86400),
    Partition("cpu", False, 20, 32, 128_000, 0, None),
)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"nodes": 10, "mem": "500G"},
        {"nodes": 2, "mem": "1000G"},
        {"partition": "cpu", "gpus_per_node": 0, "time": "30d"},
        {"partition": "cpu,gpu", "time": "30d"},
        {"partition": ["gpu", "cpu"], "mem": "0"},
    ],
)
def test_what_the_nodes_can_give_may_be_asked_for(keys: dict[str, Any]) -> None:
    check_capacity(SlurmOptions(**keys), NODES)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"partition": "cpu"}, "cluster.gpus_per_node: got 8, but no node of partition cpu has GPUs"),
        ({"gpus_per_node": 9}, "cluster.gpus_per_node: got 9, but no node of partition gpu has more than 8 GPUs"),
        ({"cpus_per_task": 9}, "cluster.cpus_per_task: 8 processes on each node with 9 CPUs each, but no node"),
        ({"mem": "2T"}, "cluster.mem: got 2T, but no node of partition gpu has more than 1024000 MB"),
        ({"nodes": 11}, "cluster.nodes: got 11, but partition gpu has only 10 such nodes"),
        ({"nodes": 3, "mem": "1000G"}, "cluster.nodes: got 3, but partition gpu has only 2 such nodes"),
        ({"time": "4d"}, "cluster.time: got 4d, but partition gpu allows 3d at most"),
        ({"partition": "fast"}, "cluster.partition: got fast, but there is no such partition; there are: gpu (the d"),
    ],
)
def test_what_no_node_can_give_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_capacity(SlurmOptions(**keys), NODES)
    assert str(caught.value).startswith(words)


def test_without_a_default_a_partition_must_be_named() -> None:
    with pytest.raises(UserError, match=r"cluster\.partition: null, but this cluster has no default .* are: cpu"):
        check_capacity(SlurmOptions(), NODES[2:])


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "cluster.account: lab is refused",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "cluster.qos: high is refused"),
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "cluster.partition: ",
        ),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some "
         "limit)", "cluster.time: 72h is more than the default partition allows"),
        ("sbatch: error: Memory specification can not be satisfied", "cluster.mem: "),
        ("sbatch: error: Batch job submission failed: Invalid feature specification", "cluster.constraint: "),
        ("sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification", "cluster.gpus"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "cluster: no n"),
        ("sbatch: unrecognized option '--foo=1'\nTry \"sbatch --help\" for more information", "cluster.sbatch.foo: "),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", "sbatch: "
         "the scheduler can't be reached; see by squeue --me"),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)",
         "sbatch: Job violates accounting/QOS policy (job submit limit)"),
        ("sbatch: warning: be careful\nsbatch: error: The site says no", "sbatch: The site says no"),
        ("", "sbatch: it failed without a word"),
    ],
)  # fmt: skip
def test_a_refusal_of_sbatch_becomes_a_line_that_names_the_key(printed: str, words: str) -> None:
    line = explain(printed, SlurmOptions(account="lab", qos="high"))
    assert line.startswith(words)
    assert "\n" not in line
