"""What is told of how a dense head was trained and tested."""

from __future__ import annotations

from dinotrain.evaluation.dense.training import Trained
from dinotrain.evaluation.outcome import Chart, Series


def loss_chart(trained: Trained) -> Chart:
    """How the loss of each head fell."""
    series = tuple(Series(label=name.replace("_", " "), points=points) for name, points in trained.losses.items())
    return Chart(title="Training loss of the head", series=series, x_label="step", y_label="loss")


def reading_notes(trained: Trained, unread: int) -> tuple[str, ...]:
    """On images that could not be read: those of the training, and so many of the test."""
    notes = []
    if trained.broken:
        notes.append(f"{len(trained.broken)} training images could not be read; others took their places")
    if unread:
        notes.append(f"{unread} test images could not be read, and are not counted")
    return tuple(notes)
