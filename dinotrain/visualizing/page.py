"""The page of a visualization: pictures, and patches to ask what they are similar to; a single file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from dinotrain.reporting.elements import facts
from dinotrain.reporting.page import write_page
from dinotrain.visualizing.colors import Colored
from dinotrain.visualizing.compact import compact
from dinotrain.visualizing.maps import heat, palette, pca_map
from dinotrain.visualizing.nearest import Found
from dinotrain.visualizing.seen import Seen

AREA = 46_000
"""px, of an image on the page: all have about the same."""
SMALL_AREA = 16_000


@dataclass(frozen=True, kw_only=True)
class Visualization:
    """All that there is to show."""

    title: str
    facts: Sequence[tuple[str, str]]
    """Names and texts: of the weights, the input and so on."""
    seen: Sequence[Seen]
    colored: Sequence[Colored]
    """Of each image."""
    neighbours: Sequence[Sequence[Found]]
    """Of each image; none where there is nothing to compare it with."""
    bank: str | None
    """Where the neighbours are from; None for the images themselves."""
    patch: tuple[int, int]
    """The image and the patch that are asked first."""
    notes: Sequence[str] = ()


def write_visualization(folder: Path, shown: Visualization) -> Path:
    """Write `report.html` into a folder; returns its path."""
    parts = (_header(shown), _similar(shown), _colors(shown), _attention(shown), _neighbours(shown), _script(shown))
    return write_page(folder, shown.title, [_style(shown), *parts])


def _style(shown: Visualization) -> str:
    """The photographs are in the style, so that each is in the file but once."""
    own = Path(__file__).with_name("page.css").read_text()
    photos = (
        f".photo-{number} {{ background-image: url({_data(seen.pixels, 'JPEG')}); }}"
        for number, seen in enumerate(shown.seen)
    )
    return "<style>\n" + own + "\n".join(photos) + "\n</style>"


def _header(shown: Visualization) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in shown.notes)
    warnings = f'<section class="card warnings"><ul>{notes}</ul></section>' if notes else ""
    return (
        f'<header><div class="line"><h1>{escape(shown.title)}</h1></div></header>'
        f'<section class="card spaced">{facts(shown.facts)}</section>{warnings}'
        '<div class="tools card spaced"><label for="strength">Strength of the maps'
        '<input id="strength" type="range" min="0" max="100" value="70"></label>'
        '<label for="smooth"><input id="smooth" type="checkbox">smooth</label></div>'
    )


def _similar(shown: Visualization) -> str:
    figures = []
    for number, seen in enumerate(shown.seen):
        says = f"{seen.name}, {seen.grid[0]} x {seen.grid[1]} patches; arrow keys choose a patch"
        attributes = f'class="stack ask" tabindex="0" role="group" aria-label="{_text(says)}" aria-describedby="found"'
        figures.append(_figure(number, seen, "", attributes))
    return (
        '<section id="ask"><h2>What is similar to a patch</h2>'
        '<p class="note">Point at a patch, or click it to keep it (Tab and the arrow keys do the same): every patch of '
        "every image is coloured by its cosine similarity to it. The address of the page then names the patch.</p>"
        '<p class="tools"><span class="scale">'
        f'<i style="background:{_gradient()}"></i><span id="ends"></span></span></p>'
        '<p id="found" class="found" aria-live="polite"></p>'
        f'<noscript><p class="note">This part needs JavaScript.</p></noscript><div class="gallery">{"".join(figures)}'
        "</div></section>"
    )


def _colors(shown: Visualization) -> str:
    figures = [
        _figure(number, seen, _map(pca_map(colored), f"principal components of {seen.name}"), 'class="stack veiled"')
        for number, (seen, colored) in enumerate(zip(shown.seen, shown.colored))
    ]
    whole = all(bool(colored.shown.all()) for colored in shown.colored)
    part = "" if whole else " Dark: patches on the other side of a threshold of the first component, left out of them."
    return (
        '<section><h2>Patch tokens as colours</h2><p class="note">The first three principal components of the patch '
        f"tokens as red, green and blue, of all images together: the same colour, the same meaning.{part}</p>"
        f'<div class="gallery">{"".join(figures)}</div></section>'
    )


def _attention(shown: Visualization) -> str:
    rows = []
    for number, seen in enumerate(shown.seen):
        maps = [("mean of all heads", seen.attention.mean(dim=0))]
        maps += [(f"head {head + 1}", values) for head, values in enumerate(seen.attention)]
        figures = (
            _figure(
                number, seen, _map(heat(values), f"attention, {name}, {seen.name}"), 'class="stack"', name, SMALL_AREA
            )
            for name, values in maps
        )
        rows.append(f'<h3>{_text(seen.name)}</h3><div class="heads">{"".join(figures)}</div>')
    return (
        '<section><h2>Where the CLS token looks</h2><p class="note">Attention of the CLS token to the patches in the '
        "last block, each map from its least to its greatest value; registers are left out.</p>"
        f'<div class="spaced">{"".join(rows)}</div></section>'
    )


def _neighbours(shown: Visualization) -> str:
    if not any(shown.neighbours):
        return ""
    rows = []
    for seen, near in zip(shown.seen, shown.neighbours):
        cells = "".join(
            f'<td><img alt="" src="{_data(found.tile, "JPEG")}"><b>{found.similarity:.3f}</b>{_text(found.name)}</td>'
            for found in near
        )
        rows.append(f"<tr><th>{_text(seen.name)}</th>{cells}</tr>")
    where = f"the images of {shown.bank}" if shown.bank else "these images"
    return (
        f'<section><h2>Nearest images</h2><p class="note">Of {_text(where)}, by cosine similarity of CLS tokens.</p>'
        f'<div class="wide card"><table class="near">{"".join(rows)}</table></div></section>'
    )


def _script(shown: Visualization) -> str:
    tokens = compact(torch.cat([seen.patches for seen in shown.seen]))
    told = {
        "images": [{"name": _plain(seen.name), "rows": seen.grid[0], "columns": seen.grid[1]} for seen in shown.seen],
        "image": shown.patch[0],
        "patch": shown.patch[1],
        "channels": tokens.channels,
        "error": round(tokens.error, 4),
        "palette": palette().flatten().tolist(),
        "values": tokens.text,
    }
    # Within a script only "<" could end it.
    data = json.dumps(told).replace("<", "\\u003c")
    dim = shown.seen[0].patches.shape[1]
    kept = "" if tokens.channels == dim else f", from {tokens.channels} of {dim} dimensions that keep most of them"
    script = Path(__file__).with_name("page.js").read_text()
    return (
        f'<p class="note spaced">Similarities on this page are right to ±{max(tokens.error, 0.001):.3f}{kept}.</p>'
        f'<script type="application/json" id="tokens">{data}</script>\n<script>\n{script}</script>'
    )


def _figure(number: int, seen: Seen, inner: str, attributes: str, caption: str | None = None, area: int = AREA) -> str:
    """A photograph, with something over it."""
    height, width = seen.pixels.shape[:2]
    wide = round((area * width / height) ** 0.5)
    place = f"width:{wide}px;max-width:100%;aspect-ratio:{width}/{height}"
    photo = f'<div class="photo photo-{number}"' + (
        f' role="img" aria-label="{_text(seen.name)}"></div>' if caption is None else "></div>"
    )
    text = _text(caption or seen.name)
    return (
        f'<figure style="width:{wide}px;max-width:100%"><div {attributes} style="{place}">{photo}{inner}</div>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _map(small: UInt8[np.ndarray, "h w c"], says: str) -> str:
    return f'<img alt="{_text(says)}" src="{_data(small, "PNG")}">'


def _data(picture: UInt8[np.ndarray, "h w c"], kind: str) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _gradient() -> str:
    stops = palette()[:: 255 // 5]
    return f"linear-gradient(90deg,{','.join('#' + bytes(stop).hex() for stop in stops)})"


def _plain(text: str) -> str:
    """Without what no text can hold: file names are bytes."""
    return text.encode("utf-8", "replace").decode()


def _text(text: str) -> str:
    return escape(_plain(text))
