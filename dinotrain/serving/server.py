"""The process that serves: connections with time limits, and an orderly end."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dinotrain.errors import UserError
from dinotrain.serving.limits import ServerLimits

_KEPT_SECONDS = 5
"""That a connection without a request is kept."""


def listening(host: str, port: int) -> socket.socket:
    """A socket at this address, which nobody else has; it takes connections once it is served.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: if it can't be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UserError(f"host: got {host!r}, expected an address of this machine, such as 127.0.0.1") from error
    # With the protocol said: only then asyncio has answers sent without waiting for more to send (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Another server that is bound already, but has not begun to listen, shows only now.
        listener.listen(0)
    except OSError as error:
        listener.close()
        reason = (error.strerror or "it can't be had").lower()
        raise UserError(f"port: {port} of {host}: {reason}; expected a free one, or 0 for any") from error
    return listener


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT; what has begun is answered, as long as the limits allow; a second signal ends
    it at once.

    Args:
        application: to serve.
        limits: of connections and times.
        started: called once connections are taken.
    """

    def __init__(self, application: Any, *, limits: ServerLimits, started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            application,
            http=_protocol(limits),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEPT_SECONDS,
            timeout_graceful_shutdown=math.ceil(limits.stop_seconds),
        )
        super().__init__(config)
        self._told = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are an orderly end; they are not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            # Only that one is told of signals; who serves in another sets `should_exit`.
            yield
            return
        former = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit |= self.should_exit
        self.should_exit = True


def _protocol(limits: ServerLimits) -> type[H11Protocol]:
    """Connections that last no longer than they are of use."""

    class Protocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        """While more is to be sent than the client has taken so far."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self._patience, self._unread):
                if timer is not None:
                    timer.cancel()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                loop = asyncio.get_running_loop()
                self._unread = loop.call_later(limits.body_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None
            self._look()

        def send_400_response(self, msg: str) -> None:
            if self.cycle is None or self.cycle.response_complete:
                body = json.dumps({"error": "no valid HTTP request"}).encode()
                head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
                self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            self.transport.close()

        def _look(self) -> None:
            """As long as no request is being answered, one has to be whole in time; bytes now and then are no use."""
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy and self._patience is not None:
                self._patience.cancel()
                self._patience = None
            elif not busy and self._patience is None:
                self._patience = asyncio.get_running_loop().call_later(limits.head_seconds, self._give_up)

        def _give_up(self) -> None:
            """To close it would wait for the client to take what was sent."""
            self._patience = None
            if self._unread is None:
                self.transport.abort()

    return Protocol
