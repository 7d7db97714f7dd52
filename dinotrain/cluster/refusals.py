"""What sbatch says when it refuses a job, as one line that names the key."""

from __future__ import annotations

import re

from dinotrain.cluster.options import SlurmOptions

WORDS = (
    (
        "invalid account or account/partition",
        "cluster.account: {account} is refused, by itself or in {partition} "
        "(yours: sacctmgr show associations user=$USER format=account,partition,qos)",
    ),
    (
        "invalid qos",
        "cluster.qos: {qos} is refused, by itself or with account {account} in {partition} "
        "(yours: sacctmgr show associations user=$USER format=account,partition,qos)",
    ),
    ("invalid partition|partition name", "cluster.partition: {partition} is refused (sinfo -s lists those there are)"),
    ("no partition specified", "cluster.partition: null, but there is no default (sinfo -s lists those there are)"),
    ("time limit is invalid|requested time limit", "cluster.time: {time} is more than {partition} allows"),
    ("memory specification", "cluster.mem: {mem} is more than the nodes of {partition} have"),
    ("invalid feature", "cluster.constraint: no node of {partition} has {constraint}"),
    ("invalid generic resource", "cluster.gpus_per_node: {gpus_per_node}, but SLURM counts no GPUs on this cluster"),
    ("invalid node name|invalid host|node.*not found", "cluster.exclude: {exclude}: it (or cluster.sbatch.nodelist) "
     "names a node that is not there"),
    ("node count specification|more processors", "cluster.nodes: {nodes} is more than {partition} allows"),
    ("node configuration is not available", "cluster: no nodes of {partition} are as asked for ({asked})"),
    ("invalid job array", "-m: more runs than this cluster allows in an array (scontrol show config: MaxArraySize)"),
    ("unable to contact|communication|connection|zero bytes|timed out", "sbatch: the scheduler can't be reached; "
     "see by squeue --me whether the job is there all the same, or try again ({text})"),
)  # fmt: skip
"""Patterns of SLURM's texts, which may stand in several lines, and what they mean."""


def explain(stderr: str, options: SlurmOptions) -> str:
    """One line for what sbatch printed as it failed."""
    lines = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if not line.lower().startswith(("warning", "try "))] or [
        "it failed without a word"
    ]
    unknown = re.search(r"unrecognized option '--([\w-]+)", stderr)
    if unknown:
        return f"cluster.sbatch.{unknown[1]}: sbatch has no such option"
    text = errors[-1].removeprefix("Batch job submission failed: ")
    for pattern, words in WORDS:
        if re.search(pattern, stderr, re.IGNORECASE):
            return words.format(text=text, **_values(options))
    return f"sbatch: {text}"


def _values(options: SlurmOptions) -> dict[str, str]:
    names = ("account", "qos", "time", "mem", "constraint", "gpus_per_node", "nodes", "exclude")
    values = {name: str(getattr(options, name)).replace("None", "null") for name in names}
    partition = f"partition {','.join(options.partitions)}" if options.partitions else "the default partition"
    asked = [f"{options.nodes} nodes", f"{options.gpus_per_node} GPUs", f"{options.tasks * options.cpus_per_task} CPUs"]
    extra = [f"{name} {getattr(options, name)}" for name in ("mem", "constraint", "exclude") if getattr(options, name)]
    return values | {"partition": partition, "asked": ", ".join(asked + extra)}
