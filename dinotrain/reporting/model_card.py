"""`MODEL_CARD.md` of a run, in the form of the project's own: what is not on record says that it was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import yaml

from dinotrain.reporting.card_facts import UNMEASURED, UNRECORDED, CardFacts, cell, gpus_of, is_distilled, table
from dinotrain.reporting.card_results import results
from dinotrain.reporting.card_training import data, model, source_kind, training
from dinotrain.reporting.elements import amount, duration, fact
from dinotrain.reporting.run_folder import RunFolder

HUB_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet": "ILSVRC/imagenet-1k",
}
"""Of data sets that have one on the Hugging Face Hub, by the module of their source."""
MARK = "<!-- written by dinotrain.card, content "
LIMITS = """## Use and limits

- Intended: features for classification, retrieval, segmentation, depth; a starting point for fine-tuning.
- A network learns from the images it is given, with their skews: of places, people, cameras. Evaluate on your own data,
  for the groups it concerns, before anything depends on it.
- Small data sets and short runs give features that are useful for images like those trained on, and little else.
- Not measured: robustness to adversarial or manipulated images, fairness over groups of people."""


def model_card(run: RunFolder, facts: CardFacts, kept: Mapping[str, Any] | None = None) -> str:
    """The whole card, with a mark that tells whether it was edited since; see `is_unedited`.

    Args:
        kept: entries of the front matter of an earlier card, which count before those of this one.
    """
    parts = (model(run, facts), data(run, facts), training(run, facts), results(run, facts), LIMITS)
    body = "\n\n".join((_intro(run), *parts, _footprint(run, facts))) + "\n"
    return f"{_front_matter(run, kept or {})}{MARK}{_digest(body)} -->\n\n{body}"


def is_unedited(text: str) -> bool:
    """Whether a card is as `model_card` made it, but for its front matter, which is kept."""
    _, mark, rest = text.partition(MARK)
    digest, end, body = rest.partition(" -->\n\n")
    return bool(mark and end) and digest == _digest(body) and front_matter(text) is not None


def front_matter(text: str) -> dict[str, Any] | None:
    """The entries before a card, which the Hugging Face Hub reads; None if they can't be read."""
    before = text.partition(MARK)[0].strip()
    if not (before.startswith("---") and before.endswith("---")):
        return None
    try:
        found = yaml.safe_load(before.removeprefix("---").removesuffix("---"))
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None


def _digest(body: str) -> str:
    return blake2b(body.encode(errors="replace"), digest_size=8).hexdigest()


def _front_matter(run: RunFolder, kept: Mapping[str, Any]) -> str:
    told: dict[str, Any] = {
        "library_name": "dinotrain",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["vision-transformer", "self-supervised-learning", "feature-extraction", "dinov2"],
    }
    if is_distilled(run):
        told["tags"].append("distillation")
    if hub := HUB_NAMES.get(source_kind(run)):
        told["datasets"] = [hub]
    text = yaml.safe_dump(told | dict(kept), sort_keys=False, allow_unicode=True)
    hint = "" if "license" in kept else "# license: choose one, such as apache-2.0; the data's may have a say\n"
    return f"---\n{hint}{text}---\n"


def _intro(run: RunFolder) -> str:
    what = "distilled from a frozen teacher" if is_distilled(run) else "trained without labels"
    state = "" if run.finished else f" Training is not finished: this is its state after step {run.step:,}."
    return f"# Model card: {cell(run.name)}\n\nA vision transformer {what}, as features for images.{state}"


def _footprint(run: RunFolder, facts: CardFacts) -> str:
    energy, environment = facts.energy, run.environment
    processes = environment.get("processes") or run.results.get("processes")
    hours = run.seconds * processes / 3600 if run.seconds and isinstance(processes, int) else None
    cards = "GPU hours" if gpus_of(run) else "process hours"
    rows = [
        ("hardware", _hardware(run)),
        ("time", duration(run.seconds) if run.seconds else UNMEASURED),
        (cards, UNMEASURED if hours is None else f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"),
        ("energy", f"{amount(energy.kwh, 'kWh', 'Wh')} (estimated)" if energy else UNMEASURED),
        ("CO2 equivalent", f"{amount(energy.co2_kg, 'kg', 'g')} (estimated)" if energy else UNMEASURED),
        *([("basis", energy.basis)] if energy else []),
        *_shared(run),
    ]
    return f"## Footprint\n\nOf this training alone.\n\n{table(('', ''), rows)}"


def _shared(run: RunFolder) -> list[tuple[str, str]]:
    together = run.results.get("students_of_the_job")
    return [("trained together", f"{fact(together)}: time and energy are of all")] if together else []


def _hardware(run: RunFolder) -> str:
    environment, gpus = run.environment, gpus_of(run)
    processes = environment.get("processes")
    if gpus:
        return f"{processes} x {gpus[0]}" if isinstance(processes, int) else f"{len(gpus)} x {gpus[0]}"
    cpu = environment.get("cpu")
    return f"{fact(environment.get('cores'))} cores of {cpu}" if cpu else UNRECORDED
