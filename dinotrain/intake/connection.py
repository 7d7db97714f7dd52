"""An HTTP connection to an address that was checked, with one deadline for all that happens on it."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from typing import Any


class Deadline:
    """A moment by which all has to be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then.

        Raises:
            TimeoutError: if it has passed.
        """
        if (seconds := self._end - time.monotonic()) <= 0:
            raise TimeoutError
        return seconds


class _Bytes(io.RawIOBase):
    """What comes in: a sender of one byte now and then does not get more time by it."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket, self._deadline = connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._socket.settimeout(self._deadline.left())
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        super().close()
        self._socket.close()


class _Timed:
    """As much of a socket as `http.client` uses."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket, self._deadline = connected, deadline
        self._read = False

    def makefile(self, mode: str) -> io.BufferedReader:
        self._read = True
        return io.BufferedReader(_Bytes(self._socket, self._deadline))

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._deadline.left())
        self._socket.sendall(data)

    def close(self) -> None:
        # As of a real one, the file goes on: a connection for one request is closed before its answer is read.
        if not self._read:
            self._socket.close()


class Connection(http.client.HTTPConnection):
    """A connection to `address`, for requests to `host`: names are not looked up again.

    Args:
        host, port: that the request is for, as in the URL.
        address: to connect to.
        context: of TLS; None for plain HTTP. The certificate has to be that of `host`.
        deadline: of connecting and of everything after it.
    """

    def __init__(self, host: str, port: int, *, address: str, context: ssl.SSLContext | None, deadline: Deadline):
        super().__init__(host, port)
        # Whether the port is said in the header Host depends on it.
        self.default_port = http.client.HTTP_PORT if context is None else http.client.HTTPS_PORT
        self._address, self._context, self._deadline = address, context, deadline

    def connect(self) -> None:
        connected = socket.create_connection((self._address, self.port), self._deadline.left())
        try:
            connected.settimeout(self._deadline.left())
            if self._context is not None:
                connected = self._context.wrap_socket(connected, server_hostname=self.host)
        except BaseException:
            connected.close()
            raise
        timed: Any = _Timed(connected, self._deadline)
        self.sock = timed
