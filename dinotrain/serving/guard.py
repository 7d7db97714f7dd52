"""What stands before the application: bodies are read within limits, and each request is logged and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack, suppress
from typing import Any

from dinotrain.serving.limits import ServerLimits
from dinotrain.serving.metrics import Metrics
from dinotrain.serving.places import Full, Places
from dinotrain.serving.problem import ABOUT_TO_END, GONE, Problem

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

IMAGES = "dinotrain.images"
"""In the scope of a request: how many images it holds."""
_LONGEST_PATH = 60


class _Left(Exception):
    """The client has gone."""


class Guard:
    """An ASGI application around another.

    The whole body of a request is read before the other is called, whatever its header says of its length: it is
    never larger, and takes no longer, than the limits say.

    Args:
        application: that answers.
        limits: of bodies.
        metrics: that count.
        known: paths that are counted under their names.
        log: told a line for each request.
    """

    def __init__(
        self,
        application: Application,
        *,
        limits: ServerLimits,
        metrics: Metrics,
        known: frozenset[str],
        log: Callable[[str], None],
    ) -> None:
        self._application, self._limits, self._metrics, self._known = application, limits, metrics, known
        self._log, self._places, self._bytes = log, Places(limits.requests), Places(limits.all_bytes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began, status = time.monotonic(), GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        finally:
            seconds = time.monotonic() - began
            path = scope["path"]
            self._metrics.request(path if path in self._known else "other", status, seconds)
            self._log(_line(scope, status, seconds))

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self._application(scope, receive, send)
                return
            with self._places.held():
                pass  # where all are taken now, the body need not be read
            with ExitStack() as held:
                body = await self._body(receive, held)
                # Not sooner: who sends slowly would take the places of those who are done with that.
                held.enter_context(self._places.held())
                await self._application(scope, _replayed(body, receive), send)
        except _Left:
            return
        except Full:
            await _send(Problem(429, "too many requests at the same time; try again later"), scope, receive, send)
        except Problem as problem:
            await _send(problem, scope, receive, send)

    async def _body(self, receive: Receive, held: ExitStack) -> bytes:
        """The whole of it; its bytes are held in `_bytes` until that stack is closed."""
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    if size > self._limits.request_bytes:
                        raise Problem(413, f"the request has more than {self._limits.request_mb:g} MB")
                    held.enter_context(self._bytes.held(len(pieces[-1])))
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except asyncio.CancelledError as error:
            raise Problem(503, ABOUT_TO_END) from error
        except TimeoutError as error:
            raise Problem(408, f"the request was not there within {self._limits.body_seconds:g} s") from error


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body at once, and afterwards tells when the client has gone."""
    left = [body]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay


async def _send(problem: Problem, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    await problem.response()(scope, receive, send)


def _line(scope: MutableMapping[str, Any], status: int, seconds: float) -> str:
    """What is logged of a request; what strangers wrote can't break the line."""
    client = (scope.get("client") or ("-",))[0]
    path = ascii(scope["path"])[1:-1][:_LONGEST_PATH]
    images = scope.get(IMAGES)
    about = f" {images} image{'s' if images != 1 else ''}" if images is not None else ""
    return f"{client} {scope['method'][:_LONGEST_PATH]} {path} {status}{about} {1000 * seconds:.0f} ms"


def print_line(line: str) -> None:
    """Log to standard output; a reader who has gone does not end the server."""
    with suppress(OSError, ValueError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)
