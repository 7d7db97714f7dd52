"""Answers to a stream: in its order, as they come, whatever is wrong with some."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from image_files import animated, broken, color
from small_classifier import small_classifier

from dinotrain.intake.limits import Limits
from dinotrain.intake.picture import FIRST_FRAME, decode
from dinotrain.intake.refused import Refused
from dinotrain.predicting.images import Named
from dinotrain.predicting.model import Model
from dinotrain.predicting.stream import Answered, answers

MODEL = Model.of_classifier(small_classifier(), name="small")
SHADES = [color(7 * k, 255 - 9 * k, 3 * k) for k in range(20)]


def stream(images: Iterator[Named], **more: Any) -> Iterator[Answered]:
    options: dict[str, Any] = {"batch": 4, "threads": 3, "limits": Limits(), "ask": MODEL.probabilities}
    return answers(images, prepare=MODEL.preparation.pixels, **{**options, **more})


def named(files: list[bytes]) -> Iterator[Named]:
    return (Named(str(number), lambda data=data: data) for number, data in enumerate(files))


def direct(data: bytes) -> torch.Tensor:
    return MODEL.probabilities(MODEL.preparation.pixels(decode(data, Limits()).pixels)[None])[0]


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_all_are_answered_in_order(batch: int) -> None:
    found = list(stream(named(SHADES), batch=batch))
    assert [each.name for each in found] == [str(number) for number in range(20)]
    for each, data in zip(found, SHADES):
        assert each.row is not None
        assert torch.allclose(each.row, direct(data), atol=1e-6)


def test_broken_ones_do_not_disturb_the_others() -> None:
    bad = list(broken().values())
    files = [part for pair in zip(bad, SHADES) for part in pair]
    found = list(stream(named([*files, animated()])))
    assert all(each.row is None and each.error for each in found[:-1:2])
    assert all(each.row is not None for each in found[1::2])
    assert found[-1].note == FIRST_FRAME


def test_answers_do_not_wait_for_images_that_are_not_there_yet() -> None:
    more = threading.Event()

    def slow() -> Iterator[Named]:
        yield from named(SHADES[:2])
        assert more.wait(60)
        yield from named(SHADES[2:3])

    found = stream(slow(), batch=64)
    assert [next(found).name for _ in range(2)] == ["0", "1"]
    more.set()
    assert len(list(found)) == 1


def test_a_stream_that_is_left_is_not_read_to_its_end() -> None:
    looked = []

    def endless() -> Iterator[Named]:
        while True:
            looked.append(1)
            yield Named("x", lambda: SHADES[0])

    found = stream(endless())
    next(found)
    found.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(looked) < 1000


def test_no_thread_reads_after_the_last_answer() -> None:
    """One that is in compiled code when Python ends would have the process aborted."""
    list(stream(named(SHADES)))
    assert not [thread for thread in threading.enumerate() if thread.name == "read"]


def test_other_errors_are_raised() -> None:
    def fail() -> bytes:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(stream(iter([Named("x", fail)])))

    def failing() -> Iterator[Named]:
        raise RuntimeError("a bug of the list")
        yield

    with pytest.raises(RuntimeError, match="of the list"):
        list(stream(failing()))


def test_numbers_that_are_not_finite_are_an_error() -> None:
    found = list(stream(named(SHADES[:1]), ask=lambda pixels: torch.full((len(pixels), 2), float("nan"))))
    assert found[0].row is None
    assert "not finite" in (found[0].error or "")


def test_reasons_are_those_of_refusals() -> None:
    def refuse() -> bytes:
        raise Refused("for a reason")

    assert next(stream(iter([Named("x", refuse)]))) == Answered("x", None, error="for a reason")
