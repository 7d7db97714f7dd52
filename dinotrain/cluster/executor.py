"""submitit's executors, set up for a job, and the script that SLURM is given."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from dinotrain.cluster.options import LocalOptions, SlurmOptions
from dinotrain.cluster.refusals import explain
from dinotrain.cluster.snapshot import PACKAGE
from dinotrain.cluster.start_logs import START_MARK
from dinotrain.errors import UserError

NO_LIMIT_MINUTES = 10 * 365 * 24 * 60
"""submitit's local executor always has a limit."""

VISIBLE_SECONDS = 20

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables with which torchrun tells a process its place."""


DEFAULTS = ("partition", "account", "qos", "constraint")
OTHER_DEFAULTS = ("RESERVATION", "CLUSTERS", "WCKEY", "GRES", "EXPORT", "NETWORK", "DEBUG", "GET_USER_ENV", "PROFILE")
"""What a user may have set for all jobs, as SBATCH_ACCOUNT or the like."""


class _Anywhere(SlurmExecutor):
    """Writes the script on machines without SLURM, too."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def submit_to_slurm(
    options: SlurmOptions, jobs: Sequence[Callable[[], Any]], *, logs: Path, name: str, code: Path | None
) -> list[str]:
    """Submit a job, or an array of several; returns their ids.

    Args:
        logs: folder of the script, of what each task prints and of submitit's own files, shared with the nodes.
        name: of the job.
        code: the folder with the package that is to run; None for the one that runs now.

    Raises:
        UserError: if sbatch refuses it, in one line.
    """
    parameters = {f"slurm_{key}": value for key, value in _parameters(options, logs, name, code).items()}
    # submitit prints what sbatch says on stderr.
    with _hidden(_of_other_jobs() | _overriding(options)), contextlib.redirect_stderr(io.StringIO()):
        executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=max(options.requeues, 1))
        executor.update_parameters(**parameters)
        try:
            return [job.job_id for job in executor.submit_array(jobs)]
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(explain(str(error), options)) from error


def script(options: SlurmOptions, count: int, *, logs: Path, name: str, code: Path | None) -> str:
    """The script that is given to sbatch for so many jobs; no SLURM is needed. Arguments as above."""
    executor = _Anywhere(logs)
    executor.update_parameters(**_parameters(options, logs, name, code))
    if count > 1:
        executor.parameters["map_count"] = count
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _parameters(options: SlurmOptions, logs: Path, name: str, code: Path | None) -> dict[str, Any]:
    more = {
        str(key).replace("_", "-"): ",".join(map(str, value)) if isinstance(value, list) else value
        for key, value in options.sbatch.items()
        if value is not None and value is not False
    }
    closing = shlex.join([sys.executable, "-m", "dinotrain.cluster.closing", str(logs / "records.json")]) + " $?"
    parameters = {
        "job_name": name,
        "time": options.minutes,
        "nodes": options.nodes,
        "ntasks_per_node": options.tasks,
        "cpus_per_task": options.cpus_per_task,
        "gpus_per_node": options.gpus_per_node or None,
        "partition": ",".join(options.partitions) or None,
        "account": _text(options.account),
        "qos": _text(options.qos),
        "constraint": options.constraint,
        "exclude": ",".join(_list(options.exclude)) or None,
        "mem": _text(options.mem),
        "stderr_to_stdout": True,
        # USR2 also where submitit has been told of another signal: training answers that one.
        "additional_parameters": {"requeue": True, "signal": f"USR2@{options.signal_delay_s}", **more},
        "setup": [
            f'echo "{START_MARK} ${{SLURM_RESTART_COUNT:-0}} on $SLURM_JOB_NODELIST, $(date)"',
            _mark_others(logs),
            *_or_else(options.lines, [*_exports(code), f"{closing.removesuffix('$?')}$status"]),
            # The line after srun must be reached, whatever the lines above have set.
            "set +e",
            *_exports(code),
            f"{_on_each_node(_look(logs))} || {{ {closing}; exit $?; }}",
        ],
        "srun_args": [
            "--kill-on-bad-exit=1",
            "--open-mode=append",
            # Since SLURM 22.05 srun does not take this over from sbatch.
            f"--cpus-per-task={options.cpus_per_task}",
        ],
        "teardown": [closing],
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _or_else(lines: Sequence[str], otherwise: Sequence[str]) -> list[str]:
    """Lines of shell, and others that follow, and end the script, as soon as one of the first fails or ends it."""
    if not lines:
        return []
    said = 'echo "dinotrain: cluster.setup: \\"${setup:-$BASH_COMMAND}\\" ended with status $status"'
    after = "; ".join(["status=$?", "trap - EXIT ERR", "set +eu", said, *otherwise, "exit $?"])
    traps = ["trap 'code=$?; setup=$BASH_COMMAND; exit $code' ERR", "trap setup_failed EXIT"]
    return [f"setup_failed() {{ {after}; }}", *traps, *lines, "trap - EXIT ERR"]


def _mark_others(logs: Path) -> str:
    """Shell that marks the start in the logs of the tasks, too: a task that dies early has not come to say anything."""
    job = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
    files = f"{shlex.quote(str(logs))}/{job}_[1-9]*_log.out"
    return f'for log in {files}; do [ -e "$log" ] && echo "{START_MARK} ${{SLURM_RESTART_COUNT:-0}}" >> "$log"; done'


def _on_each_node(line: str) -> str:
    """Shell that runs a line of shell once on every node of the job; fails if it does on one of them."""
    words = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--export=ALL", "bash", "-c", line]
    return f"{shlex.join(words[:1])} --nodes=$SLURM_JOB_NUM_NODES --ntasks=$SLURM_JOB_NUM_NODES {shlex.join(words[1:])}"


def _look(logs: Path) -> str:
    """Shell that waits until this node sees the job's files; some network file systems take a while.

    On a node that never does no task could be started, and the others would wait for it in vain.
    """
    file, folder = shlex.quote(str(logs / "records.json")), shlex.quote(str(logs.parent))
    return (
        f"for _ in $(seq {VISIBLE_SECONDS}); do [ -e {file} ] && exit; ls {folder} >/dev/null 2>&1; sleep 1; done; "
        f'echo "dinotrain: $SLURMD_NODENAME does not see" {folder}; exit 1'
    )


def local_executor(options: LocalOptions, *, tasks: int, logs: Path, code: Path | None) -> submitit.LocalExecutor:
    """For processes of this machine; arguments as above, and how many processes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    lines = [
        # submitit hides all GPUs that it has not been told of.
        "unset CUDA_VISIBLE_DEVICES" if visible is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(visible)}",
        *_or_else(options.lines, ["(exit $status)"]),
        *_exports(code),
        'exec "$0" "$@"',
    ]
    executor = submitit.LocalExecutor(logs, python=shlex.join(["bash", "-c", "\n".join(lines), sys.executable]))
    executor.update_parameters(
        timeout_min=options.minutes or NO_LIMIT_MINUTES,
        tasks_per_node=tasks,
        stderr_to_stdout=True,
        signal_delay_s=options.signal_delay_s,
    )
    return executor


def start_here(executor: submitit.LocalExecutor, job: Callable[[], Any]) -> str:
    """Start a job that outlives this process and its terminal; returns the process id of its controller."""
    with _hidden(_of_other_jobs()), _detached(executor.folder / "controller.log"):
        return executor.submit(job).job_id


def check_for_slurm() -> None:
    """Make sure that jobs can be submitted from here.

    Raises:
        UserError: if SLURM's commands are missing.
    """
    missing = [command for command in ("sbatch", "srun") if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"cluster: no {missing[0]} on the PATH, so this is no machine of a SLURM cluster; expected cluster=local "
            "for processes of this machine (launch/torchrun.sh: of several)"
        )


def _exports(code: Path | None) -> list[str]:
    """Lines of shell after which Python finds the package in a folder, and not one in the working directory."""
    folder = shlex.quote(str(code or PACKAGE.parent))
    return ["export PYTHONSAFEPATH=1", f"export PYTHONPATH={folder}${{PYTHONPATH:+:$PYTHONPATH}}"]


def _of_other_jobs() -> set[str]:
    """Variables of the job that this process may be in, which are not those of the one that it submits."""
    ours = ("SUBMITIT_", *(("SLURM_", "SLURMD_", "SRUN_") if "SLURM_JOB_ID" in os.environ else ()))
    return {name for name in os.environ if name.startswith(ours) or name in PLACE} - {"SLURM_CONF"}


def _overriding(options: SlurmOptions) -> set[str]:
    """Variables that sbatch takes for more important than the script, where the script says something itself."""
    defaults = {f"SBATCH_{name.upper()}" for name in DEFAULTS if getattr(options, name) is None}
    kept = (*defaults, *(f"SBATCH_{name}" for name in OTHER_DEFAULTS))
    return {name for name in os.environ if name.startswith("SBATCH_")} - set(kept)


@contextlib.contextmanager
def _hidden(names: set[str]) -> Iterator[None]:
    """Take variables out of the environment."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextlib.contextmanager
def _detached(log: Path) -> Iterator[None]:
    """What is started here writes to a file, reads nothing, and is not ended by the terminal's hang-up."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    kept = [os.dup(number) for number in (0, 1, 2)]
    try:
        with open(os.devnull) as nothing, log.open("a") as file:
            for number, other in enumerate((nothing, file, file)):
                os.dup2(other.fileno(), number)
        yield
    finally:
        for number, old in enumerate(kept):
            os.dup2(old, number)
            os.close(old)
        signal.signal(signal.SIGHUP, before)


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)


def _list(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
