"""Answers to requests, from text to text: the images of each are read in threads and asked about in batches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from fastapi import Request
from jaxtyping import UInt8
from torch import Tensor

from dinotrain.intake.entry import Intake, is_url
from dinotrain.intake.picture import header_of, picture_of
from dinotrain.intake.refused import Refused, Why
from dinotrain.intake.room import Room
from dinotrain.predicting.answer import Answers
from dinotrain.predicting.model import Model
from dinotrain.serving import questions
from dinotrain.serving.batcher import Batcher, ModelFailed, Stopped
from dinotrain.serving.guard import IMAGES
from dinotrain.serving.limits import ServerLimits
from dinotrain.serving.metrics import Metrics
from dinotrain.serving.places import Full, Places
from dinotrain.serving.problem import ABOUT_TO_END, GONE, Problem
from dinotrain.serving.questions import PARTS, Questions, Views, png
from dinotrain.serving.threads import Threads

T = TypeVar("T")

NOTES = "X-Image-Notes"
"""Header of answers: what there is to be said of images, each after its number."""
_DECIMALS = 6
_FAILING = 3
"""Batches in a row that failed, from which on it isn't the images that are to blame."""
_LEAST_ROOM = 100 * 10**6
"""Pixels that are decoded at the same time, where images may have up to half of that."""


class Ready(NamedTuple):
    """The result for an image, and what is to be said of it."""

    value: Any
    note: str | None


class Answer(NamedTuple):
    """What goes into the body, and what into the header."""

    entries: list[Any]
    notes: list[str]


class Service:
    """One model, asked by many.

    Args:
        model: to ask.
        intake: reads images.
        limits: of requests.
        max_batch, max_wait_ms: see `Batcher`.
        decoders: threads that decode images.
        fetchers: threads that read URLs, which takes long and costs little.
    """

    def __init__(
        self,
        model: Model,
        *,
        intake: Intake,
        limits: ServerLimits,
        max_batch: int,
        max_wait_ms: float,
        decoders: int,
        fetchers: int = 16,
    ) -> None:
        self.model, self.limits = model, limits
        self._intake, self._questions = intake, Questions(model)
        self._places = Places(limits.queue)
        self.metrics = Metrics(lambda: self._places.taken)
        self._decoders, self._fetchers = Threads(decoders, "decode"), Threads(fetchers, "fetch")
        self._fetched = asyncio.Semaphore(fetchers)
        self._room = Room(max(2 * intake.limits.pixels, _LEAST_ROOM))
        self._batcher = Batcher(
            self._questions,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            expected=lambda: self._places.taken,
            observe=self.metrics.batch,
        )
        self.stopping = False

    @property
    def status(self) -> Literal["ready", "failing", "stopping"]:
        """Whether questions are answered."""
        if self.stopping:
            return "stopping"
        return "failing" if self._batcher.failures >= _FAILING else "ready"

    def close(self) -> None:
        """Answer what was taken, and take no more."""
        self.stopping = True
        self._batcher.close(self.limits.stop_seconds)
        for pool in (self._decoders, self._fetchers):
            pool.close()

    async def score(self, request: Request, texts: Sequence[str], answers: Answers) -> Answer:
        """The classes of images.

        Raises:
            Problem: for what can't be answered as a whole.
        """
        classifier = self.model.classifier
        if classifier is None:
            raise Problem(404, "this model has no classes; POST /embed tells its embeddings")
        multi = classifier.description.labels == "multi"
        if answers.threshold is not None and not multi:
            raise Problem(422, "params.threshold: the classes of this model exclude each other; expected none")
        thresholds = classifier.description.thresholds if multi else None

        def shown(row: Tensor) -> Any:
            _check_finite(row)
            return answers.shown(answers.scored(row, self.model.classes, thresholds=thresholds))

        return await self._answer(request, questions.SCORE, texts, shown)

    async def embed(self, request: Request, texts: Sequence[str], parts: Sequence[str]) -> Answer:
        """The embeddings of images; raises as `score`."""
        wanted = dict.fromkeys(parts)

        def shown(row: Tensor) -> dict[str, list[float]]:
            _check_finite(row)
            found = dict(zip(PARTS, np.round(row.double().numpy(), _DECIMALS).tolist()))
            return {part: found[part] for part in wanted}

        return await self._answer(request, questions.EMBED, texts, shown)

    async def pictures(self, request: Request, texts: Sequence[str]) -> Answer:
        """An image as the network sees it; raises as `score`."""
        return await self._answer(request, questions.PICTURES, texts, _encoded)

    async def _answer(self, request: Request, kind: str, texts: Sequence[str], shown: Callable[[Any], Any]) -> Answer:
        request.scope[IMAGES] = len(texts)
        if len(texts) > self.limits.images:
            raise Problem(
                413, f"input_data: {len(texts)} images, more than {self.limits.images}, the most of a request"
            )
        try:
            with self._places.held(len(texts)):
                work = _all(self._one(kind, text, shown) for text in texts)
                found = await _unless_gone(request, work, self.limits.answer_seconds)
        except Full as error:
            raise Problem(429, "too many images are waiting; try again later") from error
        except ModelFailed as error:
            raise Problem(500, "the model failed at this") from error
        except Stopped as error:
            raise Problem(503, ABOUT_TO_END) from error
        self._count(found)
        return _joined(found)

    async def _one(self, kind: str, text: str, shown: Callable[[Any], Any]) -> Ready | Refused:
        try:
            if is_url(text):
                pixels, note = await self._fetched_and_prepared(kind, text)
            else:
                pixels, note = await self._decoders.run(self._prepared, kind, text, None)
        except Refused as refused:
            return refused
        row = await asyncio.wrap_future(self._batcher.submit(kind, pixels))
        # Numbers are told sooner than a thread is woken; PNG files are not.
        value = await self._decoders.run(shown, row) if kind == questions.PICTURES else shown(row)
        return Ready(value, note)

    async def _fetched_and_prepared(self, kind: str, url: str) -> tuple[UInt8[Tensor, "3 S S"], str | None]:
        """Files that came are no part of the bodies' limit, so that few of them may wait to be decoded."""
        async with self._fetched:
            data = await self._fetchers.run(self._intake.read, url)
            return await self._decoders.run(self._prepared, kind, url, data)

    def _prepared(self, kind: str, text: str, data: bytes | None) -> tuple[UInt8[Tensor, "3 S S"], str | None]:
        """The input of the network; `data` is None of what is not fetched."""
        data, limits = self._intake.read(text) if data is None else data, self._intake.limits
        header = header_of(data, limits)
        with self._room.held(header.width * header.height):
            picture = picture_of(data, header, limits)
            return self._questions.preparation(kind).pixels(picture.pixels), picture.note

    def _count(self, found: Sequence[Ready | Refused]) -> None:
        for each in found:
            self.metrics.image(each.why.value if isinstance(each, Refused) else "answered")


def _joined(found: Sequence[Ready | Refused]) -> Answer:
    """An entry for each image.

    Raises:
        Problem: if none could be read.
    """
    refused = [each for each in found if isinstance(each, Refused)]
    if len(refused) == len(found):
        all_large = all(each.why is Why.TOO_LARGE for each in refused)
        reason = (
            refused[0].reason if len(found) == 1 else f"none of the images can be read; the first: {refused[0].reason}"
        )
        raise Problem(413 if all_large else 422, reason)
    notes = [f"{number}: {each.note}" for number, each in enumerate(found) if isinstance(each, Ready) and each.note]
    return Answer([{"error": each.reason} if isinstance(each, Refused) else each.value for each in found], notes)


def _check_finite(row: Tensor) -> None:
    """Numbers that JSON does not know come of weights that are not, or do not fit fp16."""
    if not row.isfinite().all():
        raise ModelFailed


def _encoded(views: Views) -> dict[str, Any]:
    """As JSON can hold it."""
    mean = np.rint(views.attention.mean(axis=0)).astype(np.uint8)
    image, pca, mean_map, *heads = (
        base64.b64encode(png(levels)).decode() for levels in (views.image, views.pca, mean, *views.attention)
    )
    return {"image": image, "pca": pca, "attention": {"mean": mean_map, "heads": heads}}


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; where one raises, the others are ended."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result, if it comes in time and there is still somebody who waits for it."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if watch.done():
            raise Problem(GONE, "the client has gone")
        raise Problem(504, f"no answer within {seconds:g} s")
    except asyncio.CancelledError as error:
        raise Problem(503, ABOUT_TO_END) from error
    finally:
        for each in (task, watch):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
