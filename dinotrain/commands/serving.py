"""Serving a model, from what was typed to the end of the server."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from dinotrain.commands.backbone_request import BackboneRequest
from dinotrain.commands.build import build
from dinotrain.commands.config import compose_config
from dinotrain.commands.entry import print_config
from dinotrain.commands.evaluation_input import input_of
from dinotrain.commands.frozen import frozen_backbone
from dinotrain.commands.prediction import options_of
from dinotrain.commands.prediction_model import model_of, name_of
from dinotrain.commands.prediction_words import split_words
from dinotrain.commands.pretrain import choose_device
from dinotrain.commands.serving_options import ServingOptions
from dinotrain.errors import Status, UserError
from dinotrain.evaluation.reading import MOST_THREADS
from dinotrain.extras import require
from dinotrain.intake.entry import Intake
from dinotrain.predicting.model import Model
from dinotrain.reporting.environment import usable_cores
from dinotrain.weights.classifier_file import ClassifierWeights, classifier_at

EXAMPLE = "a classifier or any weights, e.g. model=runs/flowers"
GROUPS = ("model", "limits", "image_limits", "urls")
STOPPED = "stopped"


def serve(words: Sequence[str]) -> Status:
    """Serve the model that was typed until a signal ends it.

    Raises:
        UserError: with one line, for what the user can put right.
    """
    typed = split_words(words, example=EXAMPLE)
    if typed.others:
        raise UserError(f"{typed.others[0]}: expected key=value; --help lists the most used keys")
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, extra="serve", what="serve")
    if typed.config:
        return print_config("serve", typed.overrides)
    config = compose_config("serve", typed.overrides)
    options: ServingOptions = options_of(config, ServingOptions, GROUPS)
    intake = Intake(limits=build(config.image_limits), fetcher=build(config.urls).fetcher)
    limits = build(config.limits)
    from dinotrain.serving.server import listening

    # Before the model is read, which takes long.
    with listening(options.host, options.port) as listener:
        model = _model(config, options)
        model.warm_up()
        return _run(model, options, limits, intake, listener)


def _run(model: Model, options: ServingOptions, limits: object, intake: Intake, listener: socket.socket) -> Status:
    from dinotrain.serving.app import create_app
    from dinotrain.serving.limits import ServerLimits
    from dinotrain.serving.server import Server
    from dinotrain.serving.service import Service

    assert isinstance(limits, ServerLimits)
    service = Service(
        model,
        intake=intake,
        limits=limits,
        max_batch=options.max_batch,
        max_wait_ms=options.max_wait_ms,
        decoders=options.threads or min(usable_cores(), MOST_THREADS),
    )
    host, port = listener.getsockname()[:2]
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    what = f"{len(model.classes)} classes" if model.classes else "a backbone"
    words = f"serving {model.name} ({what}, {model.preparation.size} px) at {place}, addresses at {place}/docs"
    Server(create_app(service), limits=limits, started=lambda: print(words, flush=True)).run([listener])
    print(STOPPED, flush=True)
    return Status.DONE


def _model(config: DictConfig, options: ServingOptions) -> Model:
    path = str(config.model.path)
    try:
        classifier = classifier_at(path)
        if classifier is not None:
            return _classifier_model(classifier, path, options)
        return _backbone_model(config, options)
    except UserError as error:
        # The backbone's own key is `weights`; a file that is refused is named without any.
        line = str(error).removeprefix("weights: ")
        raise UserError(f"model: {line}" if line.startswith(path) else line) from error


def _classifier_model(classifier: ClassifierWeights, path: str, options: ServingOptions) -> Model:
    for key in ("size", "crop_fraction"):
        if getattr(options, key) is not None:
            raise UserError(f"{key}: got {getattr(options, key)}, expected none: a classifier has its own")
    return model_of(classifier, path, device=options.device, precision=options.precision)


def _backbone_model(config: DictConfig, options: ServingOptions) -> Model:
    about = config.model
    request = BackboneRequest(
        weights=about.path,
        part=about.part,
        num_heads=about.num_heads,
        size=options.size,
        crop_fraction=options.crop_fraction,
    )
    weights = request.read_weights()
    size, crop_fraction = input_of(request, weights)
    backbone = frozen_backbone(
        weights,
        device=torch.device(choose_device(options.device, key="device")),
        size=size,
        crop_fraction=crop_fraction,
        precision=options.precision,
    )
    return Model(name=name_of(about.path), backbone=backbone)
