"""The images that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinotrain.commands.build import build
from dinotrain.commands.config import check_keys, near
from dinotrain.commands.usage import config_dir
from dinotrain.data.source import Source
from dinotrain.data.storage.remote import Storage
from dinotrain.errors import UserError


def build_source(config: DictConfig) -> Source:
    """The source of the group `data`, which reads remote files as the group `storage` says.

    Raises:
        UserError: if it can't be built.
    """
    storage = build(config.storage)
    if "sources" in config.data:
        return _mixture(config.data, storage)
    return _single(config.data.source, storage)


def _single(node: DictConfig, storage: Storage) -> Source:
    return build(node, storage=storage) if node.get("_partial_") else build(node)


def _mixture(data: DictConfig, storage: Storage) -> Source:
    """Each entry of `data.sources` is a file of configs/data with keys of its own, and a weight."""
    entries = OmegaConf.to_container(data.sources) if OmegaConf.is_config(data.sources) else data.sources
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"data.sources: got {entries!r}, expected a list such as "
            "[{data: folder, root: /a, weight: 2}, {data: shards, root: /b, weight: 1}]"
        )
    sources, weights, names = [], [], []
    for number, entry in enumerate(entries):
        where = f"data.sources[{number}]"
        settings = {str(key): value for key, value in entry.items()}
        weights.append(settings.pop("weight", 1))
        kind = settings.pop("data", None)
        names.append(str(settings.pop("name", f"{number}_{kind}")))
        if isinstance(weights[-1], bool) or not isinstance(weights[-1], (int, float)) or not weights[-1] > 0:
            raise UserError(f"{where}.weight: got {weights[-1]!r}, expected a number above 0")
        try:
            sources.append(_single(_composed(kind, settings, data.max_broken).data.source, storage))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return build(data.source, sources=sources, weights=weights, names=names)


def _composed(kind: Any, settings: Mapping[str, Any], max_broken: float) -> DictConfig:
    """The file of configs/data with this name, with these keys over its own."""
    files = {path.stem: path for path in (config_dir() / "data").glob("*.yaml") if path.stem != "mix"}
    if kind not in files:
        raise UserError(f"data: got {kind!r}; {near(str(kind), files)}")
    base = OmegaConf.load(files[kind])
    assert isinstance(base, DictConfig)
    del base["mean"], base["std"]  # of the whole mixture
    if "max_broken" in base.source:
        base.max_broken = max_broken
    else:
        del base["max_broken"]
    OmegaConf.set_struct(base, True)
    known = list(base.keys())  # a key without a value would not be "in" base
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise UserError(f"{unknown[0]}: no such key of data={kind}; {near(unknown[0], known)}")
    try:
        config = OmegaConf.create({"data": OmegaConf.merge(base, settings)})
        if OmegaConf.is_missing(config.data, "root"):
            raise UserError("root is missing")
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(str(error).split("\n")[0]) from error
    check_keys(config, ())
    return config
