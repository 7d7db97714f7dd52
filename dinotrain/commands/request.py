"""What is to be submitted: from what was typed to composed configurations, one for each run."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dinotrain.cluster.options import LocalOptions, SlurmOptions
from dinotrain.cluster.record import latest
from dinotrain.commands.build import build
from dinotrain.commands.config import compose_config, read_overrides
from dinotrain.commands.recognition import quoted
from dinotrain.errors import UserError


@dataclass(frozen=True)
class Requested:
    """A run that was asked for."""

    words: list[str]
    swept: list[str]
    """Those of the words that tell it from the others of an array."""
    config: DictConfig
    """Of training: without the group `cluster`."""
    options: SlurmOptions | LocalOptions

    @property
    def run_dir(self) -> Path:
        """Absolute."""
        return Path(self.config.output_dir).absolute()


def requested_runs(words: Sequence[str], *, multirun: bool) -> list[Requested]:
    """Compose what was typed; with `multirun`, once for each combination of the values given for a key.

    Raises:
        UserError: if it can't be composed, or the runs would share a folder.
    """
    runs = [_composed(own, swept) for own, swept in _combinations(words, multirun)]
    if len(runs) > 1:
        if isinstance(runs[0].options, LocalOptions):
            raise UserError("-m: got cluster=local, but an array needs a SLURM cluster; submit one run at a time")
        if any(run.options != runs[0].options for run in runs):
            raise UserError("-m: the jobs of an array all ask for the same; the keys of cluster differ between them")
        _separate(runs)
    for run in runs:
        run.config.output_dir = str(run.run_dir)
    return runs


def _composed(words: list[str], swept: list[str]) -> Requested:
    config = compose_config("launch", words)
    if not isinstance(config.get("cluster"), DictConfig):
        raise UserError("cluster: its keys are missing; expected cluster=slurm or cluster=local")
    training = OmegaConf.masked_copy(config, [str(key) for key in config if key != "cluster"])
    return Requested(words, swept, training, build(config.cluster))


def _combinations(words: Sequence[str], multirun: bool) -> list[tuple[list[str], list[str]]]:
    """(words, those of them that have other values elsewhere) of each run."""
    choices: list[list[str]] = []
    keys = [_key(word) for word in words]
    for word, override in zip(words, read_overrides(words)):
        if not override.is_sweep_override():
            choices.append([word])
            continue
        key, _, values = word.partition("=")
        if not multirun:
            raise UserError(
                f"{word}: got several values; expected one, or a list as in '{key}=[{values}]', "
                "or -m before the words for a run with each"
            )
        if not override.is_discrete_sweep():
            raise UserError(f"{word}: has no values to try one by one; expected a,b,c or choice() or range()")
        if key.lstrip("+").split(".")[0] == "cluster":
            raise UserError(f"{word}: the jobs of an array all ask for the same; expected one value")
        if keys.count(_key(word)) > 1:
            raise UserError(f"{word}: the key is given a second time; expected it once")
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    several = [options for options in choices if len(options) > 1]
    return [
        (list(chosen), [word for word, options in zip(chosen, choices) if options in several])
        for chosen in itertools.product(*choices)
    ]


def _separate(runs: Sequence[Requested]) -> None:
    """Give each run a folder of its own, named by its words, where several would share one."""
    if len({run.run_dir for run in runs}) < len(runs):
        for run in runs:
            run.config.output_dir = str(run.run_dir / _folder_name(run.swept))
    names = [run.run_dir for run in runs]
    twice = next((run for run in runs if names.count(run.run_dir) > 1), None)
    if twice is not None:
        raise UserError(f"-m: {', '.join(twice.swept)}: twice the same run; give each value once")


def _folder_name(words: Sequence[str]) -> str:
    name = ",".join(re.sub(r"['\"\\]", "", word.lstrip("+")).replace("/", "_") for word in words)
    # Names of files end at 255 bytes.
    return name if len(name) < 200 else f"{name[:180]},{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def resumed_words(run: str, words: Sequence[str]) -> tuple[list[str], Path]:
    """What was typed for a run, changed by the new words, and the folder in which it was typed.

    Raises:
        UserError: if it is no run, or nothing is known of what was typed.
    """
    run_dir = Path(run).absolute()
    if not run_dir.is_dir():
        raise UserError(f"resume={run}: {'is a file' if run_dir.exists() else 'there is no such folder'}")
    record = latest(run_dir)
    if record is not None:
        before, place = record.words, Path(record.cwd)
        if not place.is_dir():
            raise UserError(f"resume={run}: the folder where it was submitted is no longer there: {place}")
        if before[:1] == ["evaluate"]:
            raise UserError(f"resume={run}: was an evaluation, which the same command again goes on with")
    else:
        before, place = _typed_words(run, run_dir), Path.cwd()
    if any(re.match(r"\+*cluster=", word) for word in words):
        # The keys of one kind of cluster are not those of another.
        before = [word for word in before if not re.match(r"\+*cluster\.", word)]
    merged = {_key(word): word for word in (*before, *words, f"output_dir={quoted(str(run_dir))}")}
    return list(merged.values()), place


def _key(word: str) -> str:
    """What a word sets, however it is spelled."""
    return word.partition("=")[0].lstrip("+~").partition("@")[0]


def _typed_words(run: str, run_dir: Path) -> list[str]:
    """Of a run that was started without a job."""
    own = _words_of(run_dir / "environment.json")
    of_students = [_words_of(path) for path in sorted(run_dir.glob("*/environment.json"))]
    several = next((words for words in of_students if words and _names_students(words)), None)
    if own is None and several is not None:
        return several
    if not (run_dir / "config.yaml").exists():
        raise UserError(f"resume={run}: is not a run folder (there is no config.yaml in it)")
    if latest(run_dir.parent) is not None or (own and _names_students(own)):
        raise UserError(f"resume={run}: is a student of another run; expected resume={run_dir.parent}")
    if own is None:
        raise UserError(
            f"resume={run}: what was typed for it is not on record (it was started neither as a job nor by python -m "
            f"dinotrain.train); expected all its words, with output_dir={run}"
        )
    return own


def _names_students(words: Sequence[str]) -> bool:
    return any(_key(word) == "students" for word in words)


def _words_of(environment: Path) -> list[str] | None:
    """From the command in a run's `environment.json`."""
    try:
        command = shlex.split(json.loads(environment.read_text("utf-8"))["command"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    for number, word in enumerate(command):
        if word == "dinotrain.train" or word.endswith("dinotrain/train.py"):
            return command[number + 1 :]
    return None
