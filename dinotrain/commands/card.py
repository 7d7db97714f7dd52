"""The model card of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from dinotrain.commands.assembly import build_networks
from dinotrain.commands.build import build
from dinotrain.commands.sources import build_source
from dinotrain.errors import UserError
from dinotrain.reporting.card_facts import CardFacts
from dinotrain.reporting.energy import GRID_KG_PER_KWH, POWER_USAGE_EFFECTIVENESS, energy_of_run
from dinotrain.reporting.model_card import front_matter, is_unedited, model_card
from dinotrain.reporting.results_folder import RESULTS, ResultsFolder, part
from dinotrain.reporting.run_folder import RunFolder, text_of
from dinotrain.training.manifest import complete_checkpoints, read_manifest

KEYS = ("out", "watts", "grid", "pue", "force")


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """Keys of the command: where the card goes, and what is stated of the power.

    `out`: the file; None for `MODEL_CARD.md` in the run. `watts`: mean power of all machines together, None for what
    was measured or else assumed. `grid`: kg of CO2 equivalent per kWh. `pue`: watts drawn per watt of the machines.
    `force`: also over a card that was edited.
    """

    out: Path | None = None
    watts: float | None = None
    grid: float = GRID_KG_PER_KWH
    pue: float = POWER_USAGE_EFFECTIVENESS
    force: bool = False

    def __post_init__(self) -> None:
        if self.watts is not None and not (math.isfinite(self.watts) and self.watts > 0):
            raise ValueError(f"watts: got {self.watts:g}, expected a number above 0")
        for name, least in (("grid", 0), ("pue", 1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name}: got {value:g}, expected a number of at least {least}")

    @classmethod
    def of(cls, words: Sequence[str]) -> CardOptions:
        """From key=value.

        Raises:
            UserError: for an unknown key, or a value that it can't have.
        """
        found: dict = {}
        for key, _, value in (word.partition("=") for word in words):
            if key not in KEYS or not value:
                raise UserError(f"{key}: expected one of {', '.join(f'{name}=...' for name in KEYS)}")
            found[key] = _value(key, value)
        try:
            return cls(**found)
        except ValueError as error:
            raise UserError(str(error)) from error


def _value(key: str, text: str) -> Path | bool | float:
    if key == "out":
        return Path(text)
    if key == "force":
        if text not in ("true", "false"):
            raise UserError(f"force: got {text}, expected true or false")
        return text == "true"
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{key}: got {text}, expected a number") from error


def write_card(run_dir: Path, options: CardOptions) -> Path:
    """Write the card of a run; returns where it is.

    Raises:
        UserError: if there is no such run, or a card would be overwritten that someone has edited.
    """
    config = _config(run_dir)
    out = options.out or run_dir / "MODEL_CARD.md"
    earlier = text_of(out)
    if out.exists() and not options.force and not is_unedited(earlier):
        raise UserError(
            f"{out}: was written or edited by someone else; out=FILE writes another, force=true replaces it"
        )
    run = RunFolder(run_dir)
    fingerprint = _fingerprint(run_dir)
    facts = CardFacts(
        parameters=count_parameters(config),
        fingerprint=fingerprint,
        images=_number_of_images(config, fingerprint),
        energy=energy_of_run(run, watts=options.watts, pue=options.pue, grid=options.grid),
        evaluations=_evaluations(run),
    )
    beside = out.with_name(f"{out.name}.new")
    try:
        beside.write_text(model_card(run, facts, front_matter(earlier)), encoding="utf-8", errors="replace")
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"out: can't write to {out} ({error.strerror})") from error
    return out


def _evaluations(run: RunFolder) -> list[ResultsFolder]:
    """Results in the run's folder, and those that it has a record of elsewhere, if they are still the same."""
    found = {path.parent.resolve(): ResultsFolder(path.parent) for path in run.path.glob(f"evaluations/**/{RESULTS}")}
    for row in run.evaluations:
        folder = ResultsFolder(Path(str(row.get("results") or run.path)))
        own = {task.name: dict(part(task.record, "numbers")) for task in folder.tasks}
        if folder.step == row["step"] and own.get(str(row["task"])) == row["numbers"]:
            found.setdefault(folder.path.resolve(), folder)
    return [folder for _, folder in sorted(found.items())]


def _config(run_dir: Path) -> DictConfig:
    path = run_dir / "config.yaml"
    if not path.exists():
        students = sorted(folder.parent.name for folder in run_dir.glob("*/config.yaml"))
        hint = f"; it has several, such as {run_dir / students[0]}" if students else ""
        raise UserError(f"{run_dir}: not the folder of a run, there is no config.yaml in it{hint}")
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: can't be read ({str(error).splitlines()[0]})") from error
    except Exception as error:  # of the YAML parser, which has no common class of its own
        raise UserError(f"{path}: damaged ({type(error).__name__})") from error
    if not isinstance(config, DictConfig) or not isinstance(config.get("model"), DictConfig):
        raise UserError(f"{path}: says nothing of the model")
    return config


def count_parameters(config: DictConfig) -> dict[str, int]:
    """Numbers of parameters of the backbone and of its heads, without memory for them.

    Projections of a feature distillation, whose width is the teacher's, are left out.

    Raises:
        UserError: if the configuration does not describe a network.
    """
    method = config.get("method")
    heads = method.get("dino_head") if isinstance(method, DictConfig) else None
    if isinstance(heads, DictConfig):
        return {name: _count(child) for name, child in build_networks(config).named_children()}
    with torch.device("meta"):
        return {"backbone": _count(build(config.model))}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _fingerprint(run_dir: Path) -> str | None:
    """Of the training data, as the newest checkpoint has it."""
    try:
        return read_manifest(complete_checkpoints(run_dir / "checkpoints")[-1]).get("data")
    except (ValueError, IndexError):
        return None


def _number_of_images(config: DictConfig, fingerprint: str | None) -> int | None:
    """Counted where the images are still there, and are those of the training; remote ones are not looked for."""
    root = str(OmegaConf.select(config, "data.root") or "")
    if fingerprint is None or "://" in root:
        return None
    try:
        source = build_source(config)
        return len(source) if source.fingerprint() == fingerprint else None
    except (UserError, OSError, OmegaConfBaseException, AttributeError):
        return None
