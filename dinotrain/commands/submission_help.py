"""The text of `launch/slurm.py --help`; fast, since it imports nothing heavy."""

from __future__ import annotations

KEYS = (
    ("cluster=NAME", "slurm, or local: processes of this machine, in the background"),
    ("cluster.nodes=N", "machines"),
    ("cluster.gpus_per_node=8", "of each; a process per GPU, or cluster.tasks_per_node=N"),
    ("cluster.cpus_per_task=8", "cores of each process, its data workers included"),
    ("cluster.partition=NAME", "also cluster.account, qos, constraint, exclude, mem"),
    ("cluster.time=72h", "limit of each start; the run is saved and goes on by itself"),
    ("cluster.setup='[LINE, ...]'", "lines of shell before training, e.g. '[module load cuda]'"),
    ("cluster.requeues=100", "how often it goes on after the time limit or preemption"),
    ("cluster.restart_on_failure=5", "after a failure that may pass: how often in a row"),
    ("cluster.sbatch.NAME=VALUE", "any other option of sbatch, e.g. cluster.sbatch.reservation=mine"),
    ("cluster.snapshot=false", "run the code as it is when the job starts, not as it is now"),
    ("cluster.check=keys", "if only the nodes see the data: check all but data and teacher"),
    ("cluster.dry=true", "print the script for sbatch, submit nothing"),
)


def help_text(command: str) -> str:
    """Usage and keys; `command` is what was typed to get here."""
    keys = "\n".join(f"  {key:<30}{text}" for key, text in KEYS)
    return (
        f"usage: {command} +experiment=NAME [cluster.KEY=VALUE ...] [key=value ...]\n"
        f"       {command} -m seed=0,1,2 +experiment=NAME ...   an array: a run for each value\n"
        f"       {command} resume=RUN [key=value ...]           go on with a run, as it was submitted but for these\n"
        f"       {command} evaluate task=NAME weights=PATH ...   an evaluation, or: evaluate watch RUN task=NAME ...\n"
        f"       {command} status RUN ...                       state, step, last loss, why it stopped\n"
        f"       {command} follow RUN                           its log, as it grows\n"
        f"       {command} cancel [--now] RUN ...               save and end it; at once: without saving\n\n"
        "Submits training as a job of a SLURM cluster. Everything is checked here before anything is queued; the job\n"
        "saves and goes on by itself at time limits, preemption and failures that may pass. Takes all keys of\n"
        "python -m dinotrain.train, whose --help lists the experiments, and these:\n"
        f"{keys}\n\n"
        "options:\n"
        "  -m, --multirun   submit an array of runs, one for each combination of a,b,c, range(1,4), choice(a,b)\n"
        "  --config         print the whole configuration, with what was typed, and end\n"
        "  --help           this text"
    )
