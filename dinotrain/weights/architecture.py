"""The architecture that a set of tensors belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.models.head import Head
from dinotrain.models.position import Resize
from dinotrain.models.vit import VisionTransformer
from dinotrain.weights.shapes import Shapes, shapes_of

HEAD_WIDTH = 64
"""Channels per attention head in most vision transformers, and in all published ones of the family."""

GUESSED_WIDTHS = {*range(64, 1025, 64), 1536}
"""Where heads are taken to be that wide: no tensor shows their number, and published networks that are 1152, 1280,
1408 or 1664 wide have 16 heads."""

MOST = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What `VisionTransformer` must be built with to take a set of weights; fields as its arguments."""

    image_size: int
    patch_size: int
    channels: int
    embed_dim: int
    depth: int
    num_heads: int
    ffn: Literal["mlp", "swiglu"]
    ffn_ratio: float
    num_registers: int
    layer_scale: bool
    position_resize: Resize
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse what no network has, as descriptions in files of other people may say anything.

        Raises:
            UserError: for a value of another type, or out of range.
        """
        sizes = {"image_size": 1, "patch_size": 1, "channels": 1, "embed_dim": 1, "depth": 1, "num_heads": 1}
        for name, least in {**sizes, "num_registers": 0}.items():
            got = getattr(self, name)
            whole = isinstance(got, int) and not isinstance(got, bool)
            _expect(whole and least <= got <= MOST, name, got, f"a whole number from {least} to {MOST}")
        for name in ("ffn_ratio", "norm_eps"):
            got = getattr(self, name)
            number = isinstance(got, int | float) and not isinstance(got, bool)
            _expect(number and 0 < got <= MOST, name, got, "a number above 0")
        _expect(isinstance(self.layer_scale, bool), "layer_scale", self.layer_scale, "true or false")
        _expect(self.ffn in ("mlp", "swiglu"), "ffn", self.ffn, "mlp or swiglu")
        _expect(self.position_resize in get_args(Resize), "position_resize", self.position_resize, "scale or size")

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `VisionTransformer`."""
        return {**vars(self), "layer_scale": 1.0 if self.layer_scale else None}

    def shapes(self) -> Shapes:
        """All parameters of the backbone by name.

        Raises:
            UserError: for sizes that do not fit each other.
        """
        try:
            with torch.device("meta"):
                model = VisionTransformer(**self.arguments())
        except ValueError as error:
            raise UserError(str(error).removeprefix("model.")) from error
        except (RuntimeError, OverflowError, TypeError) as error:  # of torch, for sizes beyond its numbers
            raise UserError(f"no network can be as large as a {self.brief()}") from error
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    def brief(self) -> str:
        """In words, as a banner says it."""
        heads = f"{self.num_heads} head" + "s" * (self.num_heads > 1)
        parts = [f"ViT of {self.depth} blocks x {self.embed_dim} channels, {heads}, patch {self.patch_size}"]
        parts += [f"{self.num_registers} registers"] * bool(self.num_registers)
        parts += [self.ffn] * (self.ffn != "mlp")
        return ", ".join(parts)

    @classmethod
    def of_tensors(
        cls,
        backbone: Mapping[str, Tensor],
        *,
        num_heads: int | None = None,
        position_resize: Resize | None = None,
        norm_eps: float = 1e-6,
    ) -> Architecture:
        """As `of_shapes`."""
        return cls.of_shapes(
            shapes_of(backbone), num_heads=num_heads, position_resize=position_resize, norm_eps=norm_eps
        )

    @classmethod
    def of_shapes(
        cls,
        backbone: Shapes,
        *,
        num_heads: int | None = None,
        position_resize: Resize | None = None,
        norm_eps: float = 1e-6,
    ) -> Architecture:
        """Read off the shapes of tensors with the names of `VisionTransformer`.

        What no tensor shows must be given or is what the family has: heads of 64 channels, for the widths where that
        is the custom (`GUESSED_WIDTHS`), and positions resized as the released weights with and without registers are.

        Raises:
            UserError: if these are not the tensors of a vision transformer, or the number of heads can't be told.
        """
        dim, channels, height, width = _shape(backbone, "patch_embed.proj.weight", 4)
        if height != width:
            raise UserError(f"patches of {height}x{width} px: expected square ones")
        depth = _count_blocks(backbone)
        registers = _shape(backbone, "register_tokens", 3)[1] if "register_tokens" in backbone else 0
        ffn, ratio = _feedforward(backbone, dim)
        return cls(
            image_size=_grid(backbone) * height,
            patch_size=height,
            channels=channels,
            embed_dim=dim,
            depth=depth,
            num_heads=_heads(dim, num_heads),
            ffn=ffn,
            ffn_ratio=ratio,
            num_registers=registers,
            layer_scale="blocks.0.ls1.gamma" in backbone,
            position_resize=position_resize or ("size" if registers else "scale"),
            norm_eps=norm_eps,
        )


@dataclass(frozen=True, kw_only=True)
class HeadArchitecture:
    """What `Head` must be built with to take a set of weights; fields as its arguments."""

    in_dim: int
    hidden_dim: int
    bottleneck_dim: int
    num_prototypes: int
    num_layers: int

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `Head`."""
        return dict(vars(self))

    def shapes(self) -> Shapes:
        """All parameters of the head by name."""
        with torch.device("meta"):
            model = Head(**self.arguments())
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    @classmethod
    def of_tensors(cls, head: Mapping[str, Tensor]) -> HeadArchitecture:
        """As `of_shapes`."""
        return cls.of_shapes(shapes_of(head))

    @classmethod
    def of_shapes(cls, head: Shapes) -> HeadArchitecture:
        """Read off the shapes of tensors with the names of `Head`.

        Raises:
            UserError: if these are not the tensors of a head.
        """
        layers = [name for name in head if name.startswith("mlp.") and name.endswith("weight")]
        first = "mlp.weight" if "mlp.weight" in head else "mlp.0.weight"
        hidden, in_dim = _shape(head, first, 2)
        prototypes, bottleneck = _shape(head, "last_layer.weight_v", 2)
        return cls(
            in_dim=in_dim,
            hidden_dim=hidden,
            bottleneck_dim=bottleneck,
            num_prototypes=prototypes,
            num_layers=len(layers),
        )


def guessed_heads(dim: int) -> int | None:
    """The number of heads that networks of this width have; None where that differs."""
    return dim // HEAD_WIDTH if dim in GUESSED_WIDTHS else None


def _expect(fits: bool, name: str, got: object, expected: str) -> None:
    if not fits:
        raise UserError(f"{name}: got {str(got)[:40] if isinstance(got, str) else repr(got)[:40]}, expected {expected}")


def _shape(shapes: Shapes, name: str, dims: int) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f"no tensor {name}: not the weights of a network that is known here")
    shape = shapes[name]
    if len(shape) != dims:
        raise UserError(f"{name} has shape {list(shape)}, expected {dims} dimensions")
    if 0 in shape:
        raise UserError(f"{name} has shape {list(shape)}: it is empty")
    return shape


def _grid(backbone: Shapes) -> int:
    """Patches along a side of the position table."""
    positions = _shape(backbone, "pos_embed", 3)[1]
    side = math.isqrt(max(positions - 1, 0))
    if side < 1 or side * side != positions - 1:
        raise UserError(f"pos_embed has {positions} positions, expected one for CLS and a square grid")
    return side


def _count_blocks(backbone: Shapes) -> int:
    matches = (re.match(r"blocks\.([0-9]{1,18})\.", name) for name in backbone)
    numbers = {int(match[1]) for match in matches if match}
    if not numbers:
        raise UserError("there are no blocks.* tensors")
    depth = max(numbers) + 1
    absent = next((number for number in range(depth) if number not in numbers), None)
    if absent is not None:
        raise UserError(f"block {absent} of {depth} is missing")
    return depth


def _heads(dim: int, given: int | None) -> int:
    heads = guessed_heads(dim) if given is None else given
    if heads is None:
        raise UserError(f"the number of attention heads can't be told from {dim} channels: give the key num_heads")
    if heads < 1 or dim % heads:
        raise UserError(f"num_heads: got {heads}, expected a divisor of the {dim} channels of these weights")
    return heads


def _feedforward(backbone: Shapes, dim: int) -> tuple[Literal["mlp", "swiglu"], float]:
    """Kind and ratio of the feed-forward layers; of the ratios that give the same width, the roundest."""
    swiglu = "blocks.0.mlp.w12.weight" in backbone
    if not swiglu:
        hidden = _shape(backbone, "blocks.0.mlp.fc1.weight", 2)[0]
        return "mlp", mlp_ratio(hidden, dim)
    width = _shape(backbone, "blocks.0.mlp.w12.weight", 2)[0] // 2
    if width % 8:
        raise UserError(f"SwiGLU layers {width} wide: expected a multiple of 8")
    candidates = [4.0, *(quarter / 4 for quarter in range(1, 33)), 1.5 * width / dim]
    return "swiglu", next(ratio for ratio in candidates if _swiglu_width(int(dim * ratio)) == width)


def mlp_ratio(hidden: int, dim: int) -> float:
    """A ratio that gives this hidden width, whichever way it is rounded."""
    exact = hidden / dim
    return exact if int(dim * exact) == hidden else (hidden + 0.5) / dim


def _swiglu_width(hidden: int) -> int:
    return (int(hidden * 2 / 3) + 7) // 8 * 8
