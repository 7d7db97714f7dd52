"""Which students a configuration names: one, or several of one frozen teacher."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinotrain.commands.config import check_keys, near
from dinotrain.commands.teacher import teacher_needed
from dinotrain.commands.usage import config_dir
from dinotrain.errors import UserError

EXAMPLE = "a list of names such as [vits14, vitb14], or of keys such as [{model: vits14, name: a}, {name: b, depth: 6}]"

RUN_PARTS = ("checkpoints", "pictures", "tensorboard", "wandb")
"""Folders that a single run has."""

DISTILLED = {"drop_path": 0.0, "ffn": "mlp"}
"""Of all distilled models (DINOv2 paper, section 5 and appendix B), also where the same model on its own has SwiGLU.

The number of registers is that of the experiment, for all students.
"""


def student_configs(config: DictConfig) -> dict[str, DictConfig]:
    """The configuration of each student, by its name; under "" the given one, where there is a single student.

    Each is that of a run of its own, in a folder of the output folder: a student can be gone on with alone.

    Raises:
        UserError: for students that can't be made, or can't be together.
    """
    if config.students is None:
        return {"": config}
    entries = OmegaConf.to_container(config.students) if OmegaConf.is_config(config.students) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"students: got {config.students!r}, expected {EXAMPLE}")
    if teacher_needed(config) is None:
        raise UserError(
            "students: several need a frozen teacher; expected an experiment such as +experiment=distill_vits14"
        )
    for key, value in (("train.start_from", config.train.start_from), ("resume.checkpoint", config.resume.checkpoint)):
        if value is not None:
            raise UserError(f"{key}: got {value}, but there are several students; expected null")
    found: dict[str, DictConfig] = {}
    for number, entry in enumerate(entries):
        name, model = _student(f"students[{number}]", entry, config.model)
        if name in found:
            raise UserError(
                f"students[{number}]: a second {name}; give one of them another name: {{model: ..., name: ...}}"
            )
        try:
            found[name] = _alone(config, name, model)
        except UserError as error:
            raise UserError(str(error).replace("model.", f"students[{number}].", 1)) from error
    return found


def _student(where: str, entry: Any, own: DictConfig) -> tuple[str, DictConfig]:
    """Name and keys of the group `model` of one entry.

    A named model is as distilled students are, unless the entry says otherwise; without one, the experiment's own model
    is changed by the entry's keys.
    """
    if isinstance(entry, str):
        entry = {"model": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("model", ""), str) or not {"model", "name"} & set(entry):
        raise UserError(f"{where}: got {entry!r}, expected {EXAMPLE}")
    keys = {str(key): value for key, value in entry.items()}
    kind = keys.pop("model", None)
    name = str(keys.pop("name", kind))
    if not name or "/" in name or name.startswith(".") or name in RUN_PARTS:
        raise UserError(f"{where}.name: got {name!r}, expected a name that a folder beside others can have")
    model = (
        own if kind is None else OmegaConf.merge(_named(where, kind), DISTILLED, {"num_registers": own.num_registers})
    )
    known = [str(key) for key in model]
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise UserError(f"{where}.{unknown[0]}: no such key of the model; {near(unknown[0], known)}")
    return name, OmegaConf.merge(model, keys)  # pyright: ignore


def _named(where: str, kind: str) -> DictConfig:
    """A file of configs/model."""
    files = {path.stem: path for path in (config_dir() / "model").glob("*.yaml")}
    if kind not in files:
        raise UserError(f"{where}: got {kind!r}; {near(kind, files)}")
    model = OmegaConf.load(files[kind])
    assert isinstance(model, DictConfig)
    return model


def _alone(config: DictConfig, name: str, model: DictConfig) -> DictConfig:
    """The configuration of a run of this student only."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    own = {
        "model": OmegaConf.to_container(model),
        "students": None,
        "name": f"{config.name}_{name}",
        "output_dir": f"{config.output_dir}/{name}",
    }
    try:
        made = OmegaConf.create({**plain, **own})
    except OmegaConfBaseException as error:
        raise UserError(f"students: {str(error).splitlines()[0]}") from error
    check_keys(made, ())
    return made
