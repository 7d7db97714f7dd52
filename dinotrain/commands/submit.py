"""Submit training as a job, and look after jobs.

python launch/slurm.py +experiment=NAME [cluster.key=value ...] [key=value ...]
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dinotrain.commands.notices import plain_warnings
from dinotrain.commands.submission_help import help_text
from dinotrain.errors import Status, UserError

if TYPE_CHECKING:
    from dinotrain.cluster.record import Record
    from dinotrain.cluster.submission import Run
    from dinotrain.commands.request import Requested
    from dinotrain.commands.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text(_command()))
        return Status.DONE if words else Status.USAGE
    try:
        with plain_warnings():
            if words[0] == "evaluate":
                return _submit_evaluation(words)
            return _watch(*words) if words[0] in ("status", "cancel", "follow") else _submit(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return Status.FAILED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read along (head, less) has seen enough; Python's own end would write once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.DONE


def _watch(what: str, *words: str) -> int:
    from dinotrain.commands import jobs

    runs, options = [word for word in words if not word.startswith("-")], {w for w in words if w.startswith("-")}
    unknown = sorted(options - ({"--now"} if what == "cancel" else set()))
    if unknown:
        raise UserError(f"{unknown[0]}: no such option of {what}")
    if not runs or (what == "follow" and len(runs) > 1):
        raise UserError(f"{what}: expected {'the folder of one run' if what == 'follow' else 'folders of runs'}")
    if what == "follow":
        return jobs.follow(runs[0])
    return jobs.cancel(runs, "--now" in options) if what == "cancel" else jobs.status(runs)


def _submit(words: Sequence[str]) -> int:
    from omegaconf import OmegaConf

    from dinotrain.commands.config import compose_config, without_secrets
    from dinotrain.commands.request import requested_runs

    options = {word for word in words if word.startswith("-")}
    unknown = sorted(options - {"-m", "--multirun", "--config"})
    if unknown:
        raise UserError(f"{unknown[0]}: no such option; keys are given as key=value, --help lists the most used")
    overrides = [word for word in words if word not in options]
    several = bool(options & {"-m", "--multirun"})
    to_resume = [word.partition("=")[2] for word in overrides if word.startswith("resume=")]
    if to_resume:
        overrides = _resumed(to_resume, [word for word in overrides if not word.startswith("resume=")], several)
    if "--config" in options:
        if several:
            raise UserError("--config: shows the configuration of one run; expected it without -m")
        print(OmegaConf.to_yaml(without_secrets(compose_config("launch", overrides))), end="")
        return Status.DONE
    return _submit_runs(requested_runs(overrides, multirun=several))


def _submit_evaluation(words: Sequence[str]) -> int:
    from dinotrain.cluster.executor import check_for_slurm
    from dinotrain.cluster.options import SlurmOptions
    from dinotrain.cluster.submission import refuse_if_alive, remove_if_empty, script_of, submit
    from dinotrain.commands.evaluation_submission import cluster_options, requested_evaluation
    from dinotrain.commands.job import EvaluationJob
    from dinotrain.commands.submission_check import gpus_here

    options = cluster_options(words)
    slurm = isinstance(options, SlurmOptions)
    if slurm and not options.dry:
        # What takes no time comes first.
        check_for_slurm()
    run = requested_evaluation(words)
    if slurm and options.dry:
        print(script_of([_for_job(run)], options))
        remove_if_empty(run.run_dir)
        return Status.DONE
    if slurm:
        _check_cluster(run)
        _warn_of_place(run.run_dir)
    refuse_if_alive(run.run_dir)
    on_cpu = "device=cpu" in words
    tasks = options.tasks if slurm else options.tasks or (1 if on_cpu else gpus_here())
    _report([run], submit([_for_job(run)], options, tasks=tasks, job=EvaluationJob))
    return Status.DONE


def _resumed(runs: Sequence[str], words: Sequence[str], several: bool) -> list[str]:
    """The words of a run that goes on; changes to the folder in which they were typed."""
    from dinotrain.commands.request import resumed_words

    if several or len(runs) > 1:
        raise UserError("resume: one run goes on at a time; expected one folder, without -m")
    overrides, place = resumed_words(runs[0], words)
    os.chdir(place)
    return overrides


def _submit_runs(runs: Sequence[Requested]) -> int:
    from dinotrain.cluster.executor import check_for_slurm
    from dinotrain.cluster.options import SlurmOptions
    from dinotrain.cluster.submission import refuse_if_alive, script_of

    options = runs[0].options
    dry = isinstance(options, SlurmOptions) and options.dry
    if isinstance(options, SlurmOptions) and not dry:
        # What takes no time comes first.
        check_for_slurm()
        _check_cluster(runs[0])
    if not dry:
        for run in runs:
            refuse_if_alive(run.run_dir)
    checked = [_checked(run, several=len(runs) > 1) for run in runs]
    if isinstance(options, SlurmOptions) and dry:
        print(script_of([_for_job(run) for run in runs], options))
        return Status.DONE
    return _queue(runs, checked)


def _check_cluster(run: Requested) -> None:
    from dinotrain.cluster.capacity import check_capacity
    from dinotrain.cluster.options import SlurmOptions
    from dinotrain.cluster.scheduler import partitions

    assert isinstance(run.options, SlurmOptions)
    check_capacity(run.options, partitions())
    if "%" in str(run.run_dir):
        raise UserError(f"output_dir: got {run.run_dir}, but % has a meaning for sbatch; expected a path without it")


def _checked(run: Requested, *, several: bool) -> list[Settings]:
    from dinotrain.commands.submission_check import check_run

    try:
        return check_run(run.config, run.options)
    except UserError as error:
        raise UserError(f"{', '.join(run.swept)}: {error}" if several else str(error)) from error


def _for_job(run: Requested) -> Run:
    from omegaconf import OmegaConf

    from dinotrain.cluster.submission import Run

    text = OmegaConf.to_yaml(run.config)
    return Run(run_dir=run.run_dir, config=text, words=run.words, name=str(run.config.name))


def _queue(runs: Sequence[Requested], checked: Sequence[Sequence[Settings]]) -> int:
    from dinotrain.cluster.options import SlurmOptions
    from dinotrain.cluster.submission import submit
    from dinotrain.commands.job import Job
    from dinotrain.commands.pretrain import make_folder
    from dinotrain.commands.submission_check import processes

    options = runs[0].options
    tasks = options.tasks if isinstance(options, SlurmOptions) else processes(runs[0].config, options)
    if isinstance(options, SlurmOptions):
        _warn_of_place(runs[0].run_dir)
    with ExitStack() as undo:
        for run, students in zip(runs, checked):
            for folder in (run.run_dir, *(settings.run_dir for settings in students)):
                undo.callback(_remove_if_unused, folder)
            for settings in students:
                make_folder(settings)
        records = submit([_for_job(run) for run in runs], options, tasks=tasks, job=Job)
        undo.pop_all()
    _report(runs, records)
    return Status.DONE


def _warn_of_place(run_dir: Path) -> None:
    from dinotrain.commands.submission_check import machine_folder

    why = machine_folder(run_dir)
    if why is not None:
        print(
            f"warning: output_dir: {run_dir} {why}, which other machines usually do not see; "
            "a job needs a folder that all nodes share",
            file=sys.stderr,
        )


def _remove_if_unused(folder: Path) -> None:
    """Remove a run folder in which nothing was written yet."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == ["config.yaml"] and not (folder / "config.yaml").stat().st_size:
            (folder / "config.yaml").unlink()
        folder.rmdir()


def _report(runs: Sequence[Requested], records: Sequence[Record]) -> None:
    """Say what was submitted, and how to look after it."""
    first = records[0]
    local = first.cluster == "local"
    each = _amount(first.tasks_per_node, "process", "es")
    what = f"{each} of this machine" if local else f"{_amount(first.nodes, 'node')} x {each}"
    # Absolute: the commands below are to work from anywhere.
    folders = [shlex.quote(str(run.run_dir)) for run in runs]
    if len(records) == 1:
        print(f"{'local job' if local else 'job'} {first.job}: {first.name}, {what}")
        print(f"  run      {runs[0].run_dir}")
        print(f"  log      {Path(first.logs) / f'{first.job}_0_log.out'}")
    else:
        print(f"array {str(first.job).partition('_')[0]}: {len(records)} jobs, each of {what}")
        for run, record in zip(runs, records):
            print(f"  {record.job:<8} {', '.join(run.swept)}: {run.run_dir}")
        print(f"  logs     {first.logs}")
    print(f"  follow   {_command()} follow {folders[0]}")
    print(f"  status   {_command()} status {' '.join(folders)}")
    print(f"  cancel   {_command()} cancel {' '.join(folders)}")


def _amount(number: int, word: str, ending: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else ending}"


def _command() -> str:
    """What was typed to get here."""
    script = Path(sys.argv[0])
    return f"python {shlex.quote(sys.argv[0])}" if script.name == "slurm.py" else "python -m dinotrain.commands.submit"


if __name__ == "__main__":
    sys.exit(main())
