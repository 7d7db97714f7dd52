"""From what is typed after `visualize` to overrides and paths of images."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from dinotrain.commands.embedding_words import verbatim
from dinotrain.errors import UserError

PATHS = ("weights", "out", "bank")
_ASSIGNMENT = re.compile(r"[~+]*[\w.@-]+=|~")


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the configuration, and images; where there are images, `data.root` is filled in, to be unread.

    Raises:
        UserError: for an unknown option, no images, or images named in both ways.
    """
    images = [word for word in words if not _ASSIGNMENT.match(word) or os.path.lexists(word)]
    for word in images:
        if word.startswith("-") and not os.path.lexists(word):
            raise UserError(f"{word}: no such option; keys are given as key=value, --help lists them")
    overrides = [verbatim(word, PATHS) for word in words if word not in images]
    given = [word for word in overrides if re.match(r"\+*data(\.\w+)?=", word)]
    if images and given:
        raise UserError(f"{given[0]}: {images[0]} is given as well; expected images in one of the two ways")
    if not images and not given:
        raise UserError("no images; expected files or folders of them, e.g. weights=RUN a.jpg photos/ out=DIR")
    return [*overrides, *(["data.root=''"] if images else [])], images
