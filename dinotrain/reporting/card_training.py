"""The sections of a model card on the network, its data and its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinotrain.reporting.card_facts import (
    UNRECORDED,
    CardFacts,
    gpus_of,
    is_distilled,
    module_of,
    settings,
    spaced,
    table,
)
from dinotrain.reporting.elements import fact
from dinotrain.reporting.results_folder import part
from dinotrain.reporting.run_folder import RunFolder

DATA_NAMES = {
    "cifar10": "CIFAR-10",
    "fashion_mnist": "Fashion-MNIST",
    "imagenet": "ImageNet-1k",
    "embedded": "drawings made by dinotrain itself",
}
METHODS = {
    "self_distillation": "self-distillation: DINO loss between views, iBOT loss on masked patches, KoLeo regularizer, "
    "against a teacher that is the moving average of the student (arXiv:2304.07193, section 4)",
    "distillation": "distillation from a frozen teacher by its prototypes, on CLS and all patch tokens "
    "(arXiv:2304.07193, section 5)",
    "feature_distillation": "distillation from a frozen teacher by its features, of CLS and patch tokens",
}

OF_PROTOTYPES = (
    *("freeze_last_layer", "teacher_temperature", "teacher_temperature_start", "teacher_temperature_warmup"),
)
"""Keys of the optimisation that only methods with prototypes use."""


def model(run: RunFolder, facts: CardFacts) -> str:
    """The network: what it is built of, what goes in and what comes out."""
    network = part(run.config, "model")
    counts = facts.parameters
    exported = ", in backbone.safetensors" if (run.path / "backbone.safetensors").exists() else ""
    mean, std = run.setting("data", "mean"), run.setting("data", "std")
    rows = [
        ("parameters", f"{counts['backbone']:,} (counted)" if "backbone" in counts else UNRECORDED),
        *[(f"parameters of the {spaced(name)}", f"{n:,}") for name, n in counts.items() if name != "backbone"],
        ("blocks", fact(network.get("depth"))),
        ("width", fact(network.get("embed_dim"))),
        ("attention heads", fact(network.get("num_heads"))),
        ("feed-forward", f"{fact(network.get('ffn'))}, ratio {fact(network.get('ffn_ratio'))}"),
        ("patch", f"{fact(network.get('patch_size'))} px"),
        ("registers", fact(network.get("num_registers"))),
        ("LayerScale", "no" if network.get("layer_scale") is None else "yes"),
        ("image size of the position embedding", f"{fact(network.get('image_size'))} px"),
        ("input", f"RGB in 0..1, normalised with mean {fact(mean)} and standard deviation {fact(std)}"),
        ("output", "CLS token, a token per patch, and registers where there are any, after the final norm"),
        ("weights", f"moving average of the student, at step {run.step:,}{exported}"),
    ]
    return f"## Model\n\n{table(('', ''), rows)}"


def data(run: RunFolder, facts: CardFacts) -> str:
    """The images it was trained on."""
    rows = [
        ("images", data_name(run)),
        ("number of images", f"{facts.images:,}" if facts.images is not None else UNRECORDED),
        ("fingerprint", facts.fingerprint or UNRECORDED),
        ("images that could not be read", f"{len(run.skipped):,}"),
        ("labels", "not used to train"),
    ]
    return f"## Data\n\n{table(('', ''), rows)}"


def training(run: RunFolder, facts: CardFacts) -> str:
    """How it was trained: all keys of the recipe."""
    optim, crops = part(run.config, "optim"), part(run.config, "crops")
    steps, batch = optim.get("steps"), optim.get("global_batch")
    seen = run.step * batch if isinstance(batch, int) else None
    epochs = f", {seen / facts.images:,.1f} epochs" if seen and facts.images else ""
    teacher = run.results.get("teacher")
    rows = [
        ("method", METHODS.get(module_of(run.setting("method", "objective")), UNRECORDED)),
        *([("teacher", _teacher(run, teacher))] if is_distilled(run) else []),
        *([("began with", _brief(run.setting("train", "start_from")))] if run.setting("train", "start_from") else []),
        ("loss", settings(run.setting("method", "objective"))),
        *[(spaced(name), settings(run.setting("method", name))) for name in ("dino_head", "ibot_head", "masks")],
        ("crops", settings(crops)),
        ("augmentation", settings(run.setting("augment"))),
        ("optimizer", _optimizer(optim, module_of(run.setting("method", "objective")))),
        ("steps", f"{run.step:,} of {fact(steps)}, {fact(batch)} images each{epochs}"),
        ("images seen", f"{seen:,}" if seen else UNRECORDED),
        ("precision", _precision(run)),
        ("seed", fact(run.config.get("seed"))),
    ]
    return f"## Training\n\n{table(('', ''), [row for row in rows if row[1]])}"


def data_name(run: RunFolder) -> str:
    """What the training images are, in words."""
    group = part(run.config, "data")
    if isinstance(sources := group.get("sources"), list):
        return "mixture of " + fact([each.get("root", "") if isinstance(each, dict) else each for each in sources])
    kind, root = source_kind(run), group.get("root")
    name = DATA_NAMES.get(kind) or (f"{spaced(kind)} {root}" if root else spaced(kind))
    return name or UNRECORDED


def source_kind(run: RunFolder) -> str:
    """Name of the module of the source of the images."""
    return module_of(run.setting("data", "source"))


def _teacher(run: RunFolder, recorded: Any) -> str:
    digest = recorded.get("digest") if isinstance(recorded, dict) else None
    return _brief(run.setting("teacher", "weights")) + (f", content {digest}" if digest else "")


def _brief(place: Any) -> str:
    """The last two parts of a path: what is above them tells of a machine, not of the weights."""
    text = str(place)
    return text if "://" in text else "/".join([name for name in text.split("/") if name][-2:])


def _optimizer(optim: Mapping[str, Any], method: str) -> str:
    left_out = ("steps", "global_batch", *(OF_PROTOTYPES if method == "feature_distillation" else ()))
    told = settings({key: value for key, value in optim.items() if key not in left_out})
    return f"AdamW: {told}" if told else ""


def _precision(run: RunFolder) -> str:
    chosen = run.setting("runtime", "precision")
    if chosen != "auto":
        return f"{chosen}, master weights fp32" if chosen else UNRECORDED
    return "fp16, master weights fp32" if gpus_of(run) else "bf16 or fp32, as the processor allows"
