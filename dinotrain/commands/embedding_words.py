"""From what is typed after `embed` to overrides of its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dinotrain.commands.recognition import quoted, recognise
from dinotrain.errors import UserError

PATHS = ("weights", "out")


def overrides_of(words: Sequence[str]) -> list[str]:
    """`images=PATH` becomes `data` and `data.root`, `--neighbours IMAGE` an item of a list; paths are taken as typed.

    Raises:
        UserError: for an unknown option, or images that are not said, or twice, or can't be recognised.
    """
    overrides, queries, roots = [], [], []
    rest = iter(words)
    for word in rest:
        key, _, value = word.partition("=")
        if key in ("--neighbours", "neighbours"):
            queries.append(value if "=" in word else _following(rest))
        elif key == "images":
            roots.append(value)
        elif word.startswith("-"):
            raise UserError(f"{word}: no such option; --help lists them")
        elif "=" not in word:
            raise UserError(f"{word}: expected key=value, as images={word}; --help lists the most used keys")
        else:
            overrides.append(verbatim(word, PATHS))
    given = [word for word in overrides if re.match(r"\+*data(\.root|\.sources)?=", word)]
    if len(roots) > 1 or (roots and given):
        raise UserError(f"{(roots[1:] or given)[0]}: images={roots[0]} is given as well; expected one of them")
    if not roots and not given:
        raise UserError("images is missing: a folder, shards, a list or the like, e.g. images=/data/photos")
    for root in roots:
        overrides += _of_images(root)
    return [*overrides, *_listed(queries)]


def verbatim(word: str, keys: Iterable[str]) -> str:
    """`key=value` as Hydra reads it as it is, whatever characters are in the value, if the key is one of these."""
    key, _, value = word.partition("=")
    taken = key.lstrip("+") in keys and value and value[0] not in "'\"" and value != "null"
    return f"{key}={quoted(value)}" if taken else word


def _of_images(root: str) -> list[str]:
    if not root:
        raise UserError("images: got nothing, expected a folder, shards, a list or the like")
    root = root.removeprefix("file://")
    try:
        return [f"data={recognise(root)}", f"data.root={quoted(root)}"]
    except UserError as error:
        raise UserError(f"images: {error}") from error


def _listed(queries: Sequence[str]) -> list[str]:
    if any(not query for query in queries):
        raise UserError("neighbours: got nothing, expected an image file")
    # A list in brackets is read as such, as everywhere.
    texts = [query[1:-1] if query.startswith("[") and query.endswith("]") else quoted(query) for query in queries]
    return [f"neighbours=[{','.join(texts)}]"] if texts else []


def _following(words: Iterable[str]) -> str:
    return next(iter(words), "")
