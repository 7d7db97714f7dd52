"""What the inspection of a set of images says: rows of its tables, and advice."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from omegaconf import DictConfig, OmegaConf

from dinotrain.commands.settings import Settings
from dinotrain.data.crops import MultiCrop
from dinotrain.data.paths import printable
from dinotrain.data.source import Source
from dinotrain.inspection.enlargement import Enlargement
from dinotrain.inspection.survey import PIXELS, Survey
from dinotrain.inspection.throughput import Measurement, recommended

LARGE = 2.5
"""Short sides of the median image over that of global crops, above which shrinking the files is worth a thought."""
SMALL = 2 / 3
"""Sides of what is cut out in the median over that of global crops, below which images are small for these."""
STORED = 2.3
"""Short sides to store over that of global crops: the crops of an image shrunk to that are enlarged but rarely."""
IDLE = 0.3
"""Share of the time that a worker waits for data, above which storage is what limits it."""
BUSY = 0.3
"""Share of its time that a single worker has no core, above which other processes disturb the measurement."""
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def set_rows(settings: Settings) -> list[tuple[str, str]]:
    """What is known of the set before any image is read."""
    source = settings.source
    rows = [("images", f"{len(source):,} {_place(settings.config.data)}"), ("labels", _labels(source))]
    if settings.evaluation.train_root is None:
        test = settings.labelled[1]
        rows.append(("test split", "none" if test is None else f"{len(test):,} images (for k-NN only)"))
    for number, part in enumerate(source.left_out[:3]):
        rows.append(("" if number else "left out", f"{part.name}: {part.reason}"))
    if len(source.left_out) > 3:
        rows.append(("", f"and {len(source.left_out) - 3:,} more"))
    return rows


def side_rows(widths: Int64[np.ndarray, "n"], heights: Int64[np.ndarray, "n"]) -> list[list[str]]:
    """Quantiles of the sides of images."""
    sides = {"width": widths, "height": heights, "shorter side": np.minimum(widths, heights)}
    return [
        [name, *(f"{value:,.0f}" for value in np.percentile(values, (0, 5, 50, 95, 100), method="nearest"))]
        for name, values in sides.items()
    ]


def file_rows(found: Survey) -> list[tuple[str, str]]:
    """What the files are that were read."""
    how = f"all {found.read:,}" if found.complete else f"{found.read:,}, drawn evenly over the set"
    rows = [("read", how), ("formats", _shares(found.formats)), ("colours", _shares(found.modes))]
    if (sizes := found.sizes[found.sizes > 0]).size:
        guess = "" if found.complete else " if the rest is like these"
        whole = sizes.mean() * found.total
        rows.append(("size", f"{amount(sizes.mean())} an image, {amount(whole)} in all{guess}"))
    return rows


def crop_rows(crops: MultiCrop, sizes: tuple[Enlargement, Enlargement | None]) -> list[tuple[str, str]]:
    """What global and local crops are made from."""
    sides = (("global", crops.global_size), ("local", crops.local_size))
    return [
        (
            f"{kind} crops",
            f"{side} px, cut from {size.side:,.0f} px (median of the shorter side); "
            f"{percent(size.share)} have to be enlarged",
        )
        for (kind, side), size in zip(sides, sizes)
        if size is not None
    ]


def broken_rows(found: Survey, left_out: int, max_broken: float) -> list[tuple[str, str]]:
    """How many images can't be used, beside `left_out` parts of the set, and what the training does about it."""
    rows = [("broken", _broken(found))]
    if len(found.broken) < found.read and (found.broken or left_out):
        rows.append(("", _consequence(found, left_out, max_broken)))
    return rows


def advice_on_sizes(found: Survey, crops: MultiCrop, of_global: Enlargement) -> str | None:
    """What to do about images that are small or large for the crops."""
    if of_global.side < SMALL * crops.global_size:
        return (
            f"hint: the images are small for global crops of {crops.global_size} px, most of which are enlarged a lot: "
            "that costs time and adds no detail; smaller ones (crops.global_size) may do as well"
        )
    if stored_side(found, crops) is not None:
        return (
            f"hint: the images are much larger than crops of {crops.global_size} px need, and much of the time goes "
            "into reading and decoding them; smaller ones are written, once, by"
        )
    return None


def stored_side(found: Survey, crops: MultiCrop) -> int | None:
    """Shorter side in pixels that the files are better shrunk to; None where they are not much larger than needed."""
    shorter = np.minimum(found.widths, found.heights)
    if not found.formats.keys() - {PIXELS} or np.median(shorter[shorter > 0]) <= LARGE * crops.global_size:
        return None
    return round(STORED * crops.global_size / 32) * 32


def preparation_command(overrides: Sequence[str], side: int) -> str:
    """The command that shrinks the images that were named to a shorter side in pixels."""
    words = [word for word in overrides if re.match(r"\+*(data|storage)[.=]", word)]
    return _command("dinotrain.prepare", [*words, "out=DIR", f"resize_short={side}"])


def training_command(overrides: Sequence[str], workers: int | None) -> str:
    """The command that trains as typed, with this number of workers if there is one."""
    words = [word for word in overrides if not word.lstrip("+").startswith("inspect.")]
    if workers is not None:
        words = [word for word in words if not word.startswith("runtime.workers=")] + [f"runtime.workers={workers}"]
    return _command("dinotrain.train", words)


def throughput_rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    """One row for each number of workers."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.0f} %"

    return [
        [
            str(found.workers),
            f"{found.images_per_second:,.{0 if found.images_per_second >= 10 else 1}f}",
            "" if found.processor_ms is None else f"{found.processor_ms:.2f}",
            share(found.waiting),
            share(found.without_core),
        ]
        for found in measurements
    ]


def advice_on_workers(measurements: Sequence[Measurement], cores: int) -> list[str]:
    """How many workers to take, and what limits them."""
    best, first, last = recommended(measurements), measurements[0], measurements[-1]
    lines = [
        f"recommended: runtime.workers={best.workers}, the fewest that come near the best; "
        "what the networks need of the processor is not counted"
    ]
    if (best.waiting or 0) > IDLE:
        lines.append(
            "hint: these workers wait for data much of their time: a faster or nearer place for the images helps more "
            "than a faster processor"
        )
        if best is last and last.workers >= cores:
            lines.append(f"hint: more workers than cores may help: inspect.max_workers={4 * last.workers} tries that")
    if (first.without_core or 0) > BUSY:
        lines.append("hint: other processes kept the processor busy; these numbers would be higher without them")
    return lines


def amount(size: float) -> str:
    """Bytes in the unit that suits them."""
    unit = 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 or size >= 9.95 else f"{size:.1f} {UNITS[unit]}"


def percent(share: float) -> str:
    """A share, so that what is rare does not look like nothing, and not quite all not like all."""
    if 0 < share < 0.0005:
        return "less than 0.1 %"
    if share < 0.0995 or 0.995 <= share < 1:
        return f"{min(100 * share, 99.9):.1f} %" if share else "0 %"
    return f"{100 * share:.0f} %"


def _command(module: str, words: Sequence[str]) -> str:
    """What to type; without the quotes of Hydra around paths that it would take for neither numbers nor constants."""
    quoted = re.compile(r"='((?!(?:true|false|null|inf|nan)'$)(?:[a-z_]|[\w.:-]*/)[\w./:-]*)'$", re.IGNORECASE)
    plain = [quoted.sub(r"=\1", word) for word in words]
    return shlex.join(["python", "-m", module, *plain])


def _place(data: DictConfig) -> str:
    if "sources" in data:
        entries: Any = OmegaConf.to_container(data.sources)
        parts = [f"{entry.get('root', entry['data'])} (weight {entry.get('weight', 1):g})" for entry in entries]
        return f"in a mixture of {', '.join(parts)}"
    return f"in {data.root}" if "root" in data else "drawn by dinotrain itself"


def _labels(source: Source) -> str:
    if source.labels is None:
        return "none"
    counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes or ()))
    filled = np.flatnonzero(counts)
    if not len(filled):
        return "none"
    names = [str(number) for number in range(len(counts))] if source.classes is None else source.classes
    least, most = filled[counts[filled].argmin()], filled[counts[filled].argmax()]
    smallest, largest = (printable(names[number].encode("utf-8", "surrogateescape")) for number in (least, most))
    if counts[least] == counts[most]:
        text = f"{len(filled):,} classes of {counts[most]:,}"
    else:
        text = f"{len(filled):,} classes, from {smallest} ({counts[least]:,}) to {largest} ({counts[most]:,})"
    empty = len(counts) - len(filled)
    return text + (f"; {empty:,} more without an image" if empty else "")


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{name} {percent(count / total)}" for name, count in counts.most_common()) or "none is known"


def _broken(found: Survey) -> str:
    if not found.broken:
        return "none"
    text = f"{len(found.broken):,} of {found.read:,}"
    if found.too_small:
        text += f", {found.too_small:,} of them smaller than data.min_size"
    if found.complete:
        return text
    least, most = found.broken_share()
    return f"{text}; of the whole set {percent(least)} to {percent(most)} (95 % confidence)"


def _consequence(found: Survey, left_out: int, max_broken: float) -> str:
    """What the training does when that many can't be read."""
    allowed = max(1, max_broken * found.total)
    least, most = (share * found.total + left_out for share in found.broken_share())
    limit = f"data.max_broken={max_broken:g} allows {int(allowed):,}"
    if least > allowed:
        return f"training would stop: {limit}"
    if most <= allowed:
        return f"training goes on with others in their place: {limit}"
    return f"training may stop: {limit}; inspect.images=null reads all"
