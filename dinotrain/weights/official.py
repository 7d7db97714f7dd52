"""Files of the original DINO and DINOv2 code: backbones, and training checkpoints with their heads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.models.networks import HEADS

WRAPPERS = {"module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"}
"""What wrapping a network adds to its names."""

CONTAINERS = {"model", "state_dict", "model_state_dict"}
PARTS = ("teacher", "student", "ema")
LEFT_OUT = {"optimizer", "scaler", "fp16_scaler", "lr_scheduler", "dino_loss", "ibot_loss", "ibot_patch_loss"}
LEFT_OUT |= {"optimizers", "optimizer_states"}
"""State of a training that is no part of its networks (centers, moments)."""

MOST_NAMES = 3

CLASSIFIER = {"head.weight", "head.bias"}


@dataclass(frozen=True)
class Networks:
    """The networks of one part of a file, by the names of ours; `part` is "" in a file of one network only."""

    part: str
    backbone: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]
    notes: tuple[str, ...] = ()

    @property
    def layout(self) -> str:
        """What they are, in words."""
        plain = "blocks.0.ls1.gamma" not in self.backbone and "mask_token" not in self.backbone
        family = "DINO" if plain else "DINOv2"
        if self.heads:
            return f"training checkpoint of {family}, {self.part or 'one network'}"
        registers = self.backbone.get("register_tokens")
        many = f" with {registers.shape[1]} registers" if registers is not None and registers.dim() == 3 else ""
        return f"{family} backbone{many}" + (f", {self.part}" if self.part else "")


def from_official(tree: Any, part: str | None = None) -> Networks:
    """Find the networks in what such a file holds, and give their tensors the names of ours.

    Args:
        tree: nested mappings that end in tensors.
        part: "teacher", "student" or "ema"; None for the teacher where there are several.

    Raises:
        UserError: if there are no tensors, or not those of that part, or others beside those of a part.
    """
    tensors = _unpacked(_named(tree))
    found = {name for name in PARTS if any(key.startswith(name + ".") for key in tensors)}
    chosen = _choose(found, part)
    if chosen:
        others = tuple(f"{name}." for name in found - {chosen})
        tensors = {key: value for key, value in tensors.items() if not key.startswith(others)}
        _refuse_beside(chosen, [key for key in tensors if not key.startswith(chosen + ".")])
        tensors = {key.removeprefix(chosen + "."): value for key, value in tensors.items()}
    for container in sorted(CONTAINERS & {key.partition(".")[0] for key in tensors if "." in key}):
        _refuse_beside(container, [key for key in tensors if not key.startswith(container + ".")])
    backbone: dict[str, Tensor] = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        network, name = _place(key)
        target = backbone if network == "backbone" else heads.setdefault(network, {})
        if name in target:
            raise UserError(f"two tensors are both {network}.{name}")
        target[name] = value
    classifier = [backbone.pop(name) for name in CLASSIFIER if name in backbone]
    return Networks(chosen, backbone, heads, ("linear classifier left out",) if classifier else ())


def to_official(backbone: Mapping[str, Tensor], chunks: int = 0) -> dict[str, Tensor]:
    """The backbone as the original names it, its blocks in `chunks` lists (0 for one list without numbers of its own).

    Raises:
        ValueError: for more chunks than blocks.
    """
    depth = 1 + max(int(name.split(".")[1]) for name in backbone if name.startswith("blocks."))
    if not 0 <= chunks <= depth:
        raise ValueError(f"chunks: got {chunks}, expected 0 to {depth}")
    if not chunks:
        return dict(backbone)

    def chunked(match: re.Match[str]) -> str:
        return f"blocks.{int(match[1]) // (depth // chunks)}.{match[1]}."

    return {re.sub(r"^blocks\.(\d+)\.", chunked, name): value for name, value in backbone.items()}


def _named(tree: Any) -> dict[str, Tensor]:
    """All tensors by dotted names without wrappers."""
    if isinstance(tree, Tensor) or not isinstance(tree, Mapping):
        raise UserError(f"holds one {type(tree).__name__}, expected tensors by name")
    tensors: dict[str, Tensor] = {}
    for path, value in _leaves(tree, ()):
        name = ".".join(part for part in path if part not in WRAPPERS)
        if not name:
            raise UserError(f"{'.'.join(path)} is a tensor without a name of its own, expected tensors by name")
        if name in tensors:
            raise UserError(f"two tensors are both {name}")
        tensors[name] = value
    if not tensors:
        raise UserError("holds no tensors by name")
    return tensors


def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the containers that all of them are in."""
    for container in CONTAINERS:
        if all(key.startswith(f"{container}.") for key in tensors):
            return _unpacked({key.removeprefix(f"{container}."): value for key, value in tensors.items()})
    return tensors


def _refuse_beside(chosen: str, others: list[str]) -> None:
    """Tensors of nobody knows which network must neither be mixed with those of another nor be passed over."""
    if others:
        more = f" and {len(others) - MOST_NAMES} more" if len(others) > MOST_NAMES else ""
        named = ", ".join(others[:MOST_NAMES]) + more
        raise UserError(f"tensors beside {chosen}: {named}; expected one network, or each under {', '.join(PARTS)}")


def _leaves(tree: Mapping, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    for key, value in tree.items():
        inner = (*path, *str(key).split("."))
        if any(part in LEFT_OUT for part in inner):
            continue
        if isinstance(value, Tensor):
            yield inner, value.detach()
        elif isinstance(value, Mapping):
            yield from _leaves(value, inner)
        elif _holds_tensors(value):
            raise UserError(f"{'.'.join(inner)} is a {type(value).__name__} of tensors, expected tensors by name")


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_holds_tensors, value)))


def _choose(found: set[str], part: str | None) -> str:
    if part is None:
        return next((name for name in PARTS if name in found), "")
    if part not in found:
        there = f"there is {', '.join(sorted(found))}" if found else "these are weights of one network alone"
        raise UserError(f"no {part} here: {there}")
    return part


def _place(key: str) -> tuple[str, str]:
    """The network that a tensor belongs to, and its name there."""
    if key.startswith(("head.mlp", "head.last_layer")):  # the name of DINO
        key = f"dino_{key}"
    network, _, name = key.partition(".")
    if network in HEADS:
        # Two ways in which torch stores a weight as length and direction.
        name = name.replace("parametrizations.weight.original0", "weight_g")
        return network, name.replace("parametrizations.weight.original1", "weight_v")
    # The second number of `blocks.<chunk>.<block>.` counts through all chunks.
    return "backbone", re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key.removeprefix("backbone."))
