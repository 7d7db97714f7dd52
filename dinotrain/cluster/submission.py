"""From checked runs to jobs: claims, records, the copy of the code, and the submission itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dinotrain.cluster.executor import local_executor, script, start_here, submit_to_slurm
from dinotrain.cluster.options import LocalOptions, SlurmOptions
from dinotrain.cluster.record import Record, claim, latest, next_path, own_job
from dinotrain.cluster.scheduler import job_state
from dinotrain.cluster.snapshot import record_code
from dinotrain.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is to be submitted."""

    run_dir: Path
    """Absolute."""
    config: str
    """Resolved, as YAML, with an absolute output_dir."""
    words: list[str]
    """What was typed for it."""
    name: str


def submit(
    runs: Sequence[Run],
    options: SlurmOptions | LocalOptions,
    *,
    tasks: int,
    job: Callable[[str], Callable[[], object]],
) -> list[Record]:
    """Submit a job, or several as an array; if that fails, nothing of it is left.

    Args:
        tasks: processes on each node.
        job: makes what each of them calls, from the path of the run's record.

    Raises:
        UserError: if a run has a job already, a folder can't be written to, or the scheduler refuses.
    """
    with ExitStack() as undo:
        records = [_claimed(run, undo) for run in runs]
        shared = Path(records[0].folder)
        logs, name = shared / "logs", runs[0].name
        try:
            logs.mkdir()
            code = record_code(shared, copy=options.snapshot)
            records = [_filled(record, run, options, tasks, logs, code) for record, run in zip(records, runs)]
            (logs / "records.json").write_text(json.dumps([str(record.path) for record in records]))
        except OSError as error:
            raise UserError(f"output_dir: can't write to {shared} ({error.strerror})") from error
        snapshot = code["snapshot"] and Path(code["snapshot"])
        jobs = [job(str(record.path)) for record in records]
        if isinstance(options, SlurmOptions):
            ids = submit_to_slurm(options, jobs, logs=logs, name=name, code=snapshot)
        else:
            ids = [start_here(local_executor(options, tasks=tasks, logs=logs, code=snapshot), jobs[0])]
        undo.pop_all()
    return [_known_as(job, record) for record, job in zip(records, ids)]


def script_of(runs: Sequence[Run], options: SlurmOptions) -> str:
    """The script that would be submitted; writes nothing."""
    folder = next_path(runs[0].run_dir).with_suffix("")
    code = folder / "code" if options.snapshot else None
    return script(options, len(runs), logs=folder / "logs", name=runs[0].name, code=code)


def refuse_if_alive(run_dir: Path) -> None:
    """Make sure that no job of a run is waiting or running.

    Raises:
        UserError: if there is one, or that can't be found out.
    """
    record = latest(run_dir)
    if record is None:
        return
    elsewhere = record.cluster == "local" and record.host != socket.gethostname()
    if elsewhere and not list(Path(record.folder).glob("outcome.*.json")):
        raise UserError(
            f"output_dir: {run_dir} may still run on {record.host}, as process {record.job}; look there, and if it has "
            f"ended remove {record.path}"
        )
    try:
        state = job_state(record)
    except UserError as error:
        raise UserError(
            f"output_dir: can't find out whether job {record.job} of {run_dir} is still alive ({error}); if it is not, "
            f"remove {record.path}"
        ) from error
    if state.alive:
        where = f" on {state.nodes}" if state.nodes and state.state == "RUNNING" else ""
        what = "job" if record.cluster == "slurm" else "local job"
        raise UserError(
            f"output_dir: {what} {record.job} of {run_dir} is still alive ({state.state}{where}); "
            "wait for it, or end it with cancel"
        )


def refuse_another_job(run_dir: Path) -> None:
    """Make sure that a start of training in a run's folder does not come into the way of the job that runs there.

    Raises:
        UserError: if there is one, and this process is none of it.
    """
    if not (run_dir / "jobs").is_dir():
        return
    record = latest(run_dir)
    if record is None or record.job == own_job(os.environ):
        return
    try:
        alive = job_state(record).alive
    except UserError:
        return  # A machine that is not the cluster's.
    if alive:
        raise UserError(
            f"output_dir: job {record.job} of {run_dir} is still alive; wait for it, end it with "
            "launch/slurm.py cancel, or choose another output_dir"
        )


def _claimed(run: Run, undo: ExitStack) -> Record:
    """Take the next number of a run; makes the folders and writes the configuration."""
    undo.callback(remove_if_empty, run.run_dir)
    path = claim(run.run_dir)
    folder = path.with_suffix("")
    undo.callback(_remove, path)
    # Only now can no other submission come between.
    refuse_if_alive(run.run_dir)
    try:
        # A crash may have left a folder of this number without a record.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "config.yaml").write_text(run.config, "utf-8")
    except OSError as error:
        raise UserError(f"output_dir: can't write to {folder} ({error.strerror})") from error
    return replace(Record.read(path), folder=str(folder))


def _filled(
    record: Record, run: Run, options: SlurmOptions | LocalOptions, tasks: int, logs: Path, code: dict
) -> Record:
    slurm = options if isinstance(options, SlurmOptions) else None
    filled = replace(
        record,
        cluster="slurm" if slurm else "local",
        words=run.words,
        cwd=os.getcwd(),
        name=run.name,
        logs=str(logs),
        nodes=slurm.nodes if slurm else 1,
        tasks_per_node=tasks,
        gpus_per_node=slurm.gpus_per_node if slurm else 0,
        requeues=options.requeues,
        restart_on_failure=slurm.restart_on_failure if slurm else 0,
        code=code,
    )
    filled.write()
    return filled


def _known_as(job: str, record: Record) -> Record:
    """With its id; from here on the job is there, whatever happens to this process."""
    submitted = replace(record, job=job)
    try:
        submitted.write()
    except OSError as error:
        raise UserError(
            f"job {job} was submitted, but that can't be written to {record.path} ({error.strerror}); cancel it"
        ) from error
    return submitted


def _remove(path: Path) -> None:
    """Take back a claim."""
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    path.unlink(missing_ok=True)
    remove_if_empty(path.parent)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that nobody else has put anything into."""
    with suppress(OSError):
        folder.rmdir()
