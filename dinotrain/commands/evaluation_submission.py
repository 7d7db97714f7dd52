"""What is to be submitted of an evaluation: checked as far as it can be before it waits in a queue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from dinotrain.cluster.options import LocalOptions, SlurmOptions
from dinotrain.commands.build import build
from dinotrain.commands.config import compose_config
from dinotrain.commands.evaluation import Evaluation, identity_of
from dinotrain.commands.evaluation_place import FOLDER
from dinotrain.commands.request import Requested
from dinotrain.commands.watching import read_words
from dinotrain.errors import UserError

_CLUSTER = re.compile(r"\+*cluster[.=]")


def own_words(words: Sequence[str]) -> list[str]:
    """Of what was typed after `launch/slurm.py`, what is for the evaluation."""
    return [word for word in words[1:] if not _CLUSTER.match(word)]


def requested_evaluation(words: Sequence[str]) -> Requested:
    """Compose and check what was typed: "evaluate", then what the evaluation takes, and keys of the cluster.

    Raises:
        UserError: for what is wrong with any of it.
    """
    options = cluster_options(words)
    own = own_words(words)
    several = [word for word in own if word.startswith(("-", "resume="))]
    if several or not own:
        got = several[0] if several else "nothing"
        raise UserError(
            f"evaluate: got {got}, expected task=NAME weights=PATH data=NAME ..., or watch RUN task=NAME ..."
        )
    folder = _watched(own[1:]) if own[0] == "watch" else _evaluated(own)
    config = OmegaConf.create({"name": "evaluation", "output_dir": str(folder.absolute()), "words": own})
    return Requested(list(words), [], config, options)


def cluster_options(words: Sequence[str]) -> SlurmOptions | LocalOptions:
    """The keys of the cluster.

    Raises:
        UserError: for a value that is refused.
    """
    return build(compose_config("job", [word for word in words[1:] if _CLUSTER.match(word)]).cluster)


def _evaluated(words: Sequence[str]) -> Path:
    evaluation = Evaluation(words)
    weights = evaluation.request.read_weights()
    return evaluation.folder(weights, identity_of(weights))


def _watched(words: Sequence[str]) -> Path:
    typed = read_words(words)
    Evaluation(typed.overrides)
    return typed.run / FOLDER
