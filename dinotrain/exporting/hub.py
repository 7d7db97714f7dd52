"""The layout of the released .pth files, and the networks that torch.hub makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinotrain.errors import UserError
from dinotrain.exporting.hub_networks import HubBackbone, HubClassifier
from dinotrain.exporting.subject import Outputs, Subject, head_of
from dinotrain.models.init import initialize
from dinotrain.models.position import Resize
from dinotrain.weights.architecture import Architecture, guessed_heads
from dinotrain.weights.classifier_file import classifier_at
from dinotrain.weights.files import read_file
from dinotrain.weights.fit import load_into
from dinotrain.weights.official import to_official
from dinotrain.weights.read import read_weights
from dinotrain.weights.weights import Weights

RELEASED: dict[str, dict[str, int]] = {
    "vits14": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vitb14": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vitl14": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vitg14": {"embed_dim": 1536, "depth": 40, "num_heads": 24},
}
"""Sizes of the released networks of DINOv2."""

IMAGE_SIZE, CLASSES, REGISTERS, LAYERS = 518, 1000, 4, 4
"""Of the released networks."""

USUAL_EPS = 1e-6

PREFIX, ANY = "dinov2_", "dinov2"
"""Of the names of hubconf.py; the entry for a file of any sizes."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the tensors of a file don't show, or is not to be as they have it; None for as it is known, or usual.

    Args:
        image_size: px that the position table is for.
        num_heads: of the attention.
        position_resize: the rule by which positions are resized, "scale" or "size".
        norm_eps: of the LayerNorms.
    """

    image_size: int | None = None
    num_heads: int | None = None
    position_resize: Resize | None = None
    norm_eps: float | None = None

    def applied(self, architecture: Architecture) -> Architecture:
        """An architecture as it was chosen."""
        return replace(architecture, **{name: value for name, value in vars(self).items() if value is not None})


def released(size: str, registers: bool) -> Architecture:
    """The architecture of a released network."""
    return Architecture(
        **RELEASED[size],
        image_size=IMAGE_SIZE,
        patch_size=14,
        channels=3,
        ffn="swiglu" if size == "vitg14" else "mlp",
        ffn_ratio=4.0,
        num_registers=REGISTERS if registers else 0,
        layer_scale=True,
        position_resize="size" if registers else "scale",
    )


def entry(architecture: Architecture) -> str:
    """The entry of hubconf.py that takes these weights."""
    for size in RELEASED:
        for registers in (False, True):
            if not _misfits(architecture, released(size, registers)):
                return f"{PREFIX}{size}{'_reg' * registers}"
    return ANY


def write(subject: Subject, path: Path, *, chunks: int) -> tuple[str, ...]:
    """Write the backbone, and beside it the head of a classifier; returns how they are used.

    Raises:
        UserError: for more chunks than blocks.
    """
    try:
        backbone = to_official(subject.weights.backbone, chunks)
    except ValueError as error:
        raise UserError(str(error)) from error
    # One storage for each: a part of a larger one would be written with all of it.
    torch.save({name: value.detach().clone() for name, value in backbone.items()}, path)
    name = entry(subject.architecture)
    more = "".join(f", {key}={value!r}" for key, value in vars(_hidden(subject.architecture)).items() if value)
    if subject.classifier is not None:
        head = {"weight": subject.classifier.weight, "bias": subject.classifier.bias}
        torch.save({key: value.detach().clone() for key, value in head.items()}, head_path(path))
        name += "_lc"
        more += f', head_weights="{head_path(path).name}", layers={subject.blocks}'
    return (
        "import torch",
        f'model = torch.hub.load("CHECKOUT", "{name}", source="local", weights="{path.name}"{more})',
        "scores = model(images)" if subject.classifier is not None else "cls = model(images)",
    )


def head_path(path: Path) -> Path:
    """Where the head goes whose backbone goes to `path`."""
    return path.with_name(f"{path.stem}_head{path.suffix}")


def load(subject: Subject, path: Path) -> Callable[[Tensor], Outputs]:
    """What hubconf.py makes of the files."""
    backbone = backbone_of(weights=str(path), choices=_hidden(subject.architecture))
    head = None
    if subject.classifier is not None:
        weight, bias = _read_head(str(head_path(path)))
        head = HubClassifier(backbone=backbone, linear_head=head_of(weight, bias), layers=subject.blocks).eval()

    @torch.no_grad()
    def run(images: Tensor) -> Outputs:
        found = backbone.forward_features(images)
        names = {"cls": "x_norm_clstoken", "registers": "x_norm_regtokens", "patches": "x_norm_patchtokens"}
        return {ours: found[name] for ours, name in names.items()} | ({"logits": head(images)} if head else {})

    return run


def backbone_of(name: str = ANY, *, weights: str | None = None, choices: Choices | None = None) -> HubBackbone:
    """The network of an entry of hubconf.py, in evaluation mode.

    Args:
        name: of the entry; "dinov2" takes weights of any sizes.
        weights: anything that `read_weights` reads; None for random values.
        choices: of what the file does not say.

    Raises:
        UserError: if the weights can't be read, or are of other sizes.
    """
    expected, choices = _expected(name), choices or Choices()
    if weights is None:
        if expected is None:
            raise UserError(f"{name}: expected weights=PATH, or the name of a size such as dinov2_vits14")
        network = _network(choices.applied(expected))
        initialize(network, int(torch.randint(2**31, ())), network.initial)
        return network
    return _filled(read_weights(weights, num_heads=choices.num_heads), name, expected, choices)


def classifier_of(
    name: str = f"{ANY}_lc",
    *,
    weights: str | None = None,
    head_weights: str | None = None,
    layers: int | None = None,
    num_classes: int | None = None,
    choices: Choices | None = None,
) -> HubClassifier:
    """The network of an entry with a linear classifier, in evaluation mode.

    Args:
        name: of the entry, that of the backbone with _lc.
        weights: of a classifier of this trainer, or of a backbone; None for random values.
        head_weights: a state dict of weight and bias, for a backbone; None for random values.
        layers: 1 or 4 in the released ones; None for what the head's width says, or else 4.
        num_classes: of a random head; None for the 1000 of ImageNet.
        choices: of what the file does not say.

    Raises:
        UserError: if the weights can't be read, or do not fit each other.
    """
    plain, choices = name.removesuffix("_lc"), choices or Choices()
    read = None if weights is None else classifier_at(weights)
    if read is None:
        backbone = backbone_of(plain, weights=weights, choices=choices)
        found = None if head_weights is None else _read_head(head_weights)
    elif head_weights is not None:
        raise UserError(f"head_weights: got {head_weights}, but {weights} is a classifier with a head of its own")
    else:
        backbone, found = _filled(read.backbone, plain, _expected(plain), choices), (read.weight, read.bias)
    if found is None:
        return _random_classifier(backbone, layers or LAYERS, num_classes or CLASSES)
    weight, bias = found
    if num_classes not in (None, weight.shape[0]):
        raise UserError(f"num_classes: got {num_classes}, but the head has {weight.shape[0]}")
    own = _layers(weight, backbone, layers, str(head_weights or weights))
    head = head_of(weight, bias).requires_grad_(True)
    return HubClassifier(backbone=backbone, linear_head=head, layers=own).eval()


def _layers(weight: Float[Tensor, "classes F"], backbone: HubBackbone, given: int | None, path: str) -> int:
    """How many blocks' CLS tokens a head takes."""
    width, dim = weight.shape[1], backbone.embed_dim
    found = width // dim - 1
    if width % dim or not 1 <= found <= backbone.depth or (given is not None and given != found):
        wanted = f"{(given + 1) * dim}" if given else f"2 to {backbone.depth + 1} times {dim}"
        raise UserError(f"{path}: a head on {width} channels, expected {wanted}")
    return found


def _random_classifier(backbone: HubBackbone, layers: int, classes: int) -> HubClassifier:
    if not 1 <= layers <= backbone.depth:
        raise UserError(f"layers: got {layers}, expected 1 to {backbone.depth}")
    head = nn.Linear((layers + 1) * backbone.embed_dim, classes)
    return HubClassifier(backbone=backbone, linear_head=head, layers=layers).eval()


def _expected(name: str) -> Architecture | None:
    """What an entry stands for; None for any sizes."""
    if name == ANY:
        return None
    match = re.fullmatch(rf"{PREFIX}({'|'.join(RELEASED)})(_reg)?", name)
    if match is None:
        raise UserError(f"{name}: no such network")
    return released(match[1], bool(match[2]))


def _misfits(found: Architecture, expected: Architecture) -> list[str]:
    """The sizes in which they differ; not those of the feed-forward layers and the table, which follow the file."""
    fields = ("depth", "embed_dim", "num_heads", "patch_size", "num_registers", "channels")
    return [field for field in fields if getattr(found, field) != getattr(expected, field)]


def _filled(read: Weights, name: str, expected: Architecture | None, choices: Choices) -> HubBackbone:
    found = choices.applied(read.architecture)
    if expected is not None and _misfits(found, expected):
        raise UserError(
            f"{read.path}: a {found.brief()}; {name} is a {expected.brief()}; expected such weights, or the entry "
            f"{entry(found)}"
        )
    network = _network(found)
    load_into(network, read.backbone, path=read.path, what="the backbone")
    return network


def _network(architecture: Architecture) -> HubBackbone:
    """Without values."""
    try:
        with torch.device("meta"):
            network = HubBackbone(**architecture.arguments())
    except ValueError as error:
        raise UserError(str(error).removeprefix("model.")) from error
    return network.to_empty(device="cpu").eval()


def _hidden(architecture: Architecture) -> Choices:
    """What a file of tensors alone would be read without, where that would be wrong."""
    a = architecture
    return Choices(
        num_heads=None if guessed_heads(a.embed_dim) == a.num_heads else a.num_heads,
        position_resize=None if (a.position_resize == "size") == (a.num_registers > 0) else a.position_resize,
        norm_eps=None if a.norm_eps == USUAL_EPS else a.norm_eps,
    )


def _read_head(path: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear classifier as the released ones are stored."""
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"head_weights: {path}: no such file")
    try:
        tree = read_file(place).tree
    except UserError as error:
        raise UserError(f"head_weights: {path}: {error}") from error
    weight, bias = (tree.get(name) if hasattr(tree, "get") else None for name in ("weight", "bias"))
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or weight.shape[:1] != bias.shape:
        raise UserError(f"head_weights: {path}: expected the tensors weight [classes, width] and bias [classes]")
    if weight.dim() != 2:
        raise UserError(f"head_weights: {path}: weight has {weight.dim()} dimensions, expected 2")
    return weight, bias
