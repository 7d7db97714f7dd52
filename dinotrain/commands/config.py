"""Composing and checking a configuration; together with the commands the only user of Hydra."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinotrain.commands.usage import config_dir
from dinotrain.errors import UserError

RECIPE_GROUPS = ("seed", "model", "method", "data", "crops", "augment", "optim", "train", "teacher")
"""What changes results; everything else says how a run is carried out."""

HINTS = {
    "teacher.weights": "the run, checkpoint or file of the teacher, e.g. teacher.weights=runs/vitg14",
    "data.root": "the folder (or file) with the images to train on, e.g. data.root=/data/imagenet/train",
    "data.unit": "what the numbers in the depth files are: mm, cm, m, or the metres of one step, e.g. data.unit=mm",
    "weights": "a run, checkpoint, .pth, .safetensors or Hugging Face folder, e.g. weights=runs/vits14",
    "data.sources": "sets to mix, e.g. 'data.sources=[{data: folder, root: /a, weight: 2}, {data: list, root: /b}]'",
}


def compose_config(root: str, overrides: Sequence[str]) -> DictConfig:
    """Compose `configs/<root>.yaml` with what was typed, check every key and value, resolve everything.

    Raises:
        UserError: one line with the key, what was got and what would be right.
    """
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose(root, [_with_new_keys(root, override) for override in overrides])
        for key, value in _leaves(OmegaConf.to_container(config, resolve=False)):
            if value == "???":
                raise UserError(f"{key} is missing: {HINTS.get(key, 'give it as ' + key + '=VALUE')}")
        OmegaConf.resolve(config)
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error, root, overrides)) from None
    check_keys(config, overrides)
    _check_students(OmegaConf.select(config, "students"), overrides)
    return config


def _check_students(students: Any, overrides: Sequence[str]) -> None:
    """A key of the experiment's model says nothing of students that are other models."""
    entries = list(students) if OmegaConf.is_list(students) else []
    if all(isinstance(entry, DictConfig) and "model" not in entry for entry in entries):
        return
    for override in overrides:
        if re.match(r"\+*model[.=]", override) and not override.startswith("model.num_registers="):
            raise UserError(
                f"{override}: there are several students; expected it in their list, as in "
                "'students=[{model: vits14, ffn_ratio: 4.0}]' (model.num_registers is for all)"
            )


def read_overrides(words: Sequence[str]) -> list[Override]:
    """What was typed, read as Hydra reads it.

    Raises:
        UserError: for the first that can't be read.
    """
    parser = OverridesParser.create()
    try:
        return parser.parse_overrides(list(words))
    except OverrideParseException as error:
        raise UserError(_explain(error, "", words)) from None


def _with_new_keys(root: str, override: str) -> str:
    """Options of file systems and of sbatch, and names of further tests, are not known here: any key may be set."""
    free = {"launch": r"cluster\.sbatch[.=]|", "job": r"cluster\.sbatch[.=]|", "evaluate": r"extra_tests[.=]|"}
    return f"++{override}" if re.match(free.get(root, "") + r"storage\.options[.=]", override) else override


def without_secrets(config: DictConfig) -> DictConfig:
    """A copy in which passwords and the like in `storage.options` are dots, to be written down and shown."""
    copied = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(copied, DictConfig)
    _hide(OmegaConf.select(copied, "storage.options"))
    return copied


def _hide(options: Any) -> None:
    for key in options or () if isinstance(options, DictConfig) else ():
        if isinstance(options[key], DictConfig):
            _hide(options[key])
        elif re.search(r"secret|token|password|passwd|credential|signature|auth|^key$", str(key), re.IGNORECASE):
            options[key] = "..."


def check_keys(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check all values against the signatures of what they are for, and that no key was added that nothing reads."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    for path, node in _targets(plain):
        _check_call(path, node)
    for override in overrides:
        match = re.match(r"\+\+?([\w.]+)=", override)
        if match and "." not in match[1] and match[1] != "experiment" and not (config_dir() / match[1]).is_dir():
            raise UserError(f"{match[1]}: no such key; {near(match[1], plain)}")
        if match and "." in match[1]:
            parent = match[1].rpartition(".")[0]
            if not any(parent == path or parent.startswith(path + ".") for path, _ in _targets(plain)):
                raise UserError(f"{match[1]}: no such key")


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """All parts of a configuration that name what they configure, with their keys."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, child in node.items():
            yield from _targets(child, f"{path}.{key}" if path else str(key))


def _check_call(path: str, node: dict) -> None:
    target = locate(node["_target_"], f"{path}._target_")
    signature = inspect.signature(target)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for key, value in node.items():
        if key in ("_target_", "_partial_", "_convert_"):
            continue
        if key not in signature.parameters:
            raise UserError(f"{path}.{key}: no such key; {near(key, signature.parameters, f'{path}.')}")
        if key in hints and not _fits(value, hints[key]):
            raise UserError(f"{path}.{key}: got {value!r}, expected {_describe(hints[key])}")


def locate(name: str, key: str) -> Any:
    """The object with a dotted name."""
    module, _, attribute = str(name).rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}: {name!r} cannot be imported ({error}); expected package.module.Name") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value can stand for an argument with this annotation; types beyond YAML's accept all."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str)
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        return _fits_items(value, origin, arguments)
    return True


def _fits_items(value: Any, origin: Any, arguments: tuple) -> bool:
    if not isinstance(value, list):
        return False
    if origin is not tuple or Ellipsis in arguments:
        return all(_fits(item, arguments[0]) for item in value)
    return len(value) == len(arguments) and all(_fits(item, hint) for item, hint in zip(value, arguments))


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in names:
        return names[hint]
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} values"
    return "a list" if origin is not None else str(hint)


def near(key: str, known: Any, before: str = "") -> str:
    """The known names closest to a mistyped one, or all of them; `before` is what stands before each."""
    names = sorted(str(name) for name in known if not str(name).startswith("_"))
    best = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    close = [name for name in best if _likeness(key, name) > _likeness(key, best[0]) - 0.15]
    if close:
        return f"did you mean {' or '.join(before + name for name in close)}?"
    return f"known: {', '.join(names)}" if names else "there are none"


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _explain(error: Exception, root: str, overrides: Sequence[str]) -> str:
    """One line for a failed composition, with the nearest names."""
    text = str(error).strip()
    first = text.splitlines()[0]
    if isinstance(error, MissingConfigException):
        match = re.search(r"(?:config |Could not find )'([\w/]+)/([^/']+)'", text)
        if match:
            group, name = match[1], match[2]
            names = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
            return f"{group}={name}: no such {group}; {near(name, names)}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        if value.startswith("["):
            return f"{error.override}: cannot be read as key=[items]; quote each: \"{key}=['a=b','c d']\""
        own = value.strip("'\"") or "a,b"
        return f"{error.override}: cannot be read as key=value; quote special characters, twice: '{key}=\"{own}\"'"
    match = re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", text)
    if match:
        return f"{match[1]}: got several values; a list is typed as '{match[1]}=[{match[2]}]'"
    match = re.search(r"Could not override '([^']+)'", text)
    if match:
        return f"{match[1]}: no such key; {_suggest(match[1], root, overrides)}"
    key = getattr(error, "full_key", None)
    return f"{key}: {first}" if key and str(key) not in first else first


def _suggest(key: str, root: str, overrides: Sequence[str]) -> str:
    """The keys beside a mistyped one, from the configuration without it."""
    if key.split(".")[0] == "cluster" and root != "launch":
        return "it is for launch/slurm.py, which submits training as a job"
    others = [override for override in overrides if not override.lstrip("+~").startswith(f"{key}=")]
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose(root, [_with_new_keys(root, override) for override in others])
    except HydraException:
        return "see the files in configs/"
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig):
        return "see the files in configs/"
    if key == "weights":
        return "did you mean teacher.weights (to distil them) or train.start_from (to begin with them)?"
    if key == "data.root":
        return f"{_chosen('data', overrides)} reads no files; add data=folder (or list, shards, parquet ...)"
    return near(name, node, f"{parent}." if parent else "")


def _chosen(group: str, overrides: Sequence[str]) -> str:
    """What was typed for a group, or else for the experiment, which chose it."""
    typed = {key.lstrip("+"): word for word in overrides for key in (word.partition("=")[0],)}
    return typed.get(group) or typed.get("experiment", group)


def differences(old: dict, new: dict, groups: Sequence[str] = RECIPE_GROUPS) -> list[str]:
    """What of the recipe differs between two resolved configurations, one line per key."""
    before, after = (dict(_leaves({group: config.get(group) for group in groups})) for config in (old, new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
