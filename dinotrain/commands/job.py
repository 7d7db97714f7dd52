"""What every task of a submitted job does: training with its configuration from the run folder, or an evaluation."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinotrain.cluster.record import Record, own_job
from dinotrain.distributed.failure import write_whole
from dinotrain.errors import Status, UserError
from dinotrain.reporting.environment import COMMAND

if TYPE_CHECKING:
    from dinotrain.commands.ending import Attempt, Ended
    from dinotrain.training.interrupt import Interrupt

AGAIN = 144
"""Exit status with which a task asks submitit's local executor to start the job again."""


@dataclass(frozen=True)
class Job:
    """Called by submitit in each task.

    Args:
        record: path of the record of the submission.
    """

    record: str

    def __call__(self) -> str:
        """Work to the end, or until asked to stop; ends the process with an exit status if it fails."""
        from dinotrain.training.interrupt import Interrupt

        # From here on a signal asks for an orderly end; until now submitit has answered it, by requeueing.
        with Interrupt() as interrupt:
            path, local = Path(self.record), "SUBMITIT_LOCAL_JOB_ID" in os.environ
            restart = _restart(path, local)
            if local:
                _set_place(os.environ, restart)
            status = _carry_out(self, path, restart, interrupt)
            if status == Status.STOPPED and local and interrupt.requested == "SIGUSR2":
                sys.exit(AGAIN if restart < Record.read(path).requeues else status)
        if status not in (Status.DONE, Status.STOPPED):
            sys.exit(status)
        return "done" if status == Status.DONE else "stopped"

    def checkpoint(self) -> Any:
        """The same again: submitit asks for it if it gets a signal before the job does."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def work(self, record: Record, restart: int, attempt: Attempt, interrupt: Interrupt) -> Ended:
        """Train as configured."""
        from dinotrain.commands.pretrain import pretrain
        from dinotrain.commands.submitted import submitted_config

        config = submitted_config(Path(record.folder), restarted=restart > 0)
        return pretrain(config, attempt, interrupt)


@dataclass(frozen=True)
class EvaluationJob(Job):
    """The same for an evaluation, which knows by itself what is done already."""

    def work(self, record: Record, restart: int, attempt: Attempt, interrupt: Interrupt) -> Ended:
        """Evaluate, or watch, as typed."""
        from dinotrain.commands.evaluation import evaluate
        from dinotrain.commands.evaluation_submission import own_words
        from dinotrain.commands.watching import watch

        words = own_words(record.words)
        return watch(words[1:], attempt, interrupt) if words[0] == "watch" else evaluate(words, attempt, interrupt)


def _carry_out(job: Job, path: Path, restart: int, interrupt: Interrupt) -> int:
    from dinotrain.commands.ending import Attempt
    from dinotrain.commands.notices import plain_warnings

    attempt = Attempt()

    def run() -> Status:
        assert attempt.place is not None
        # Where the script looks for the reason, should this fail before the configuration is read.
        attempt.run_dir = path.parents[1]
        record = Record.read(path)
        _go_back_to(record.cwd, attempt.place.host)
        if attempt.place.rank == 0:
            record = record.known_as(own_job(os.environ))
        # What runs here is submitit's command; the run's environment is to say what was typed.
        os.environ[COMMAND] = shlex.join(["python", "launch/slurm.py", *record.words])
        if record.cancelled.exists():
            interrupt.requested = "SIGTERM"
        ended = job.work(record, restart, attempt, interrupt)
        if attempt.place.rank == 0:
            said = {"outcome": ended.status.name.lower(), **ended._asdict()}
            write_whole(record.outcome(restart), json.dumps(said))
        return ended.status

    with plain_warnings():
        return attempt.carry_out(run)


def _go_back_to(folder: str, host: str) -> None:
    """Relative paths are those of the place where it was submitted."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"submitted from {folder}, which {host} does not see ({error.strerror}); submit it from a folder that all "
            "nodes share"
        ) from error


def _restart(path: Path, local: bool) -> int:
    """How often this job was started before."""
    if local:
        return len(list(path.with_suffix("").glob("outcome.*.json")))
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _set_place(environ: MutableMapping[str, str], restart: int) -> None:
    """The environment that torchrun would make."""
    from dinotrain.distributed.place import PORTS

    job, size = int(environ["SUBMITIT_LOCAL_JOB_ID"]), environ["SUBMITIT_LOCAL_NTASKS"]
    rank = environ["SUBMITIT_LOCAL_GLOBALID"]
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(PORTS[(job + restart) % len(PORTS)]),
        "TORCHELASTIC_RESTART_COUNT": str(restart),
    }
    environ.update(own)
