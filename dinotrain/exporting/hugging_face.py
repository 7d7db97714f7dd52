"""A folder that transformers loads without code of ours, and how transformers runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotrain.errors import UserError
from dinotrain.exporting.library import library, unusable
from dinotrain.exporting.subject import Outputs, Subject
from dinotrain.exporting.torch_program import quietly
from dinotrain.weights.classifier_file import ClassifierDescription
from dinotrain.weights.hugging_face import to_hugging_face
from dinotrain.weights.hugging_face_config import MODELS, preprocessor_of
from dinotrain.weights.safetensors_file import write_safetensors

REGISTERS = "dinov2_with_registers"
"""The model_type of theirs that resizes positions by size with antialias, also with no registers."""

CLASSIFIERS = {"dinov2": "Dinov2ForImageClassification", REGISTERS: "Dinov2WithRegistersForImageClassification"}
PROBLEMS = {"single": "single_label_classification", "multi": "multi_label_classification"}
WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"


def write(subject: Subject, folder: Path) -> tuple[str, ...]:
    """Write weights, config.json and preprocessor_config.json; returns how they are used.

    Networks that resize positions by size become Dinov2WithRegistersModel, with or without registers, as it is the one
    class of theirs with that rule; a classifier on any other is written with the position table of its own size.

    Raises:
        UserError: for a network or a head that none of their classes describes.
    """
    subject = at_own_size(subject)
    state, config = _described(subject)
    if subject.classifier is not None:
        state, config = _with_head(subject, state, config)
    write_safetensors(folder / WEIGHTS, state, {"format": "pt"})
    files = {CONFIG: config}
    if subject.architecture.channels == 3:
        files[PREPROCESSOR] = _preprocessor(subject)
    for name, content in files.items():
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    return _how(subject, config)


def load(subject: Subject, folder: Path) -> Callable[[Tensor], Outputs]:
    """The model in a folder in float32, as transformers runs it.

    Raises:
        UserError: if transformers is not installed.
    """
    transformers = library("transformers", extra="hf", what="format=hf")
    classifier = subject.classifier is not None
    auto = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
    bars = transformers.utils.logging.is_progress_bar_enabled()
    verbosity = transformers.logging.get_verbosity()
    try:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        with quietly():
            model, report = auto.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except ImportError as error:  # it imports what it needs only now
        raise unusable("transformers", "format=hf", error) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
    vit = model.config.model_type == "vit"
    # Theirs has a pooler that nobody trained, and a mask token only in the class that is trained by masking.
    ignored = ("pooler.", "embeddings.mask_token") if vit else ()
    keys = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in map(str, report[kind])]
    wrong = [key for key in keys if not key.startswith(ignored)]
    if wrong:
        raise UserError(f"format=hf: transformers does not take {wrong[0]} as it was written; nothing was kept")
    model.eval()
    backbone = getattr(model, model.config.model_type) if classifier else model
    more = {"interpolate_pos_encoding": True} if vit else {}
    first = 1 + subject.architecture.num_registers

    @torch.no_grad()
    def run(images: Tensor) -> Outputs:
        hidden = backbone(images, **more).last_hidden_state
        found = {"cls": hidden[:, 0], "registers": hidden[:, 1:first], "patches": hidden[:, first:]}
        return found | ({"logits": model(images).logits} if classifier else {})

    return run


def differs(subject: Subject) -> str | None:
    """How their class differs from the network at other than the native resolution; None if it does not."""
    kind, own = _kind(subject), subject.architecture.position_resize
    theirs = "size" if kind == REGISTERS else None
    if theirs == own:
        return None
    words = {"scale": "by scale factor with an offset of 0.1", "size": "by size with antialias"}
    rule = words[theirs] if theirs else "by size without antialias"
    return f"{MODELS[kind]} resizes positions {rule}, this network {words[own]}"


def class_of(subject: Subject) -> str:
    """The class of theirs that it becomes."""
    kind = _kind(subject)
    return MODELS[kind] if subject.classifier is None else CLASSIFIERS[kind]


def at_own_size(subject: Subject) -> Subject:
    """A classifier with the position table of the size it is for, where their class would make another one."""
    if subject.classifier is None or not differs(subject) or subject.size == subject.architecture.image_size:
        return subject
    return subject.for_images_of(subject.size)


def _kind(subject: Subject) -> str:
    """The model_type of theirs that describes it."""
    a = subject.architecture
    whole = a.ffn_ratio == int(a.ffn_ratio)
    if a.num_registers or (a.position_resize == "size" and whole):
        return REGISTERS
    bare = not a.layer_scale and a.ffn == "mlp"
    return "vit" if bare and not (subject.classifier is not None and whole) else "dinov2"


def _described(subject: Subject) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config.json of the backbone."""
    architecture, backbone, kind = subject.architecture, dict(subject.weights.backbone), _kind(subject)
    if kind != "vit" and not architecture.layer_scale:
        architecture = replace(architecture, layer_scale=True)
        gains = torch.ones_like(backbone["norm.weight"])
        names = (f"blocks.{number}.{scale}.gamma" for number in range(architecture.depth) for scale in ("ls1", "ls2"))
        backbone |= {name: gains.clone() for name in names}
    try:
        state, config = to_hugging_face(backbone, architecture)
    except UserError as error:
        raise UserError(f"format=hf: {error}") from error
    if kind == REGISTERS and not architecture.num_registers:
        config |= {"model_type": kind, "architectures": ["Dinov2WithRegistersModel"], "num_register_tokens": 0}
        config.pop("position_resize", None)
        state["embeddings.register_tokens"] = backbone["cls_token"].new_empty(1, 0, architecture.embed_dim)
    return state, config


def _with_head(
    subject: Subject, state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    assert subject.classifier is not None
    description, kind = subject.classifier.description, config["model_type"]
    others = "format=hub, onnx, torch or safetensors keeps it whole, and head=false exports the backbone alone"
    if kind not in CLASSIFIERS:
        raise UserError(f"format=hf: a ViTModel has no head on CLS and mean patch; {others}")
    if description.blocks != 1:
        raise UserError(
            f"format=hf: the head takes CLS tokens of {description.blocks} blocks, {CLASSIFIERS[kind]} that of the "
            f"last one; {others}"
        )
    prefixed = {f"{kind}.{name}": value for name, value in state.items()}
    prefixed |= {"classifier.weight": subject.classifier.weight, "classifier.bias": subject.classifier.bias}
    return prefixed, {**config, "architectures": [CLASSIFIERS[kind]], **_labels(description)}


def _labels(description: ClassifierDescription) -> dict[str, Any]:
    return {
        "id2label": {str(number): name for number, name in enumerate(description.classes)},
        "label2id": {name: number for number, name in enumerate(description.classes)},
        "problem_type": PROBLEMS[description.labels],
    }


def _preprocessor(subject: Subject) -> dict[str, Any]:
    size = subject.size
    return preprocessor_of(subject.architecture, subject.normalization) | {
        "size": {"shortest_edge": round(size / subject.crop_fraction)},
        "crop_size": {"height": size, "width": size},
    }


def _how(subject: Subject, config: Mapping[str, Any]) -> tuple[str, ...]:
    auto = "AutoModel" if subject.classifier is None else "AutoModelForImageClassification"
    vit = config["model_type"] == "vit"
    size = subject.architecture.image_size
    resize = ", interpolate_pos_encoding=True" * (vit and size != subject.size)
    last = (
        "features = outputs.last_hidden_state[:, 0]  # CLS; the patches are [:, "
        f"{1 + subject.architecture.num_registers}:]"
    )
    if subject.classifier is not None:
        last = "print(model.config.id2label[outputs.logits.argmax(-1).item()])"
        if subject.classifier.description.labels == "multi":
            last = "probabilities = outputs.logits.sigmoid()  # of each class for itself"
    return (
        f"from transformers import AutoImageProcessor, {auto}",
        'processor = AutoImageProcessor.from_pretrained("FOLDER")',
        f'model = {auto}.from_pretrained("FOLDER").eval()',
        f'outputs = model(**processor(image, return_tensors="pt"){resize})',
        last,
    )
