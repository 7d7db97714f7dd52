"""A file server over HTTP with byte ranges, which can be told to misbehave."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class FileServer:
    """Serves the entries of `files` while it is entered.

    `faults[path]` holds what happens to the next requests for a path, the first one first: an HTTP status, a pair of
    status and body, "reset", "cut" (half the body), "slow", or "fine"; the last one stays if `for_ever` has the path.
    """

    def __init__(self, files: dict[str, bytes] | None = None, *, delay: float = 0.0, ranges: bool = True) -> None:
        self.files = files or {}
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.for_ever: set[str] = set()
        self.requests: Counter[str] = Counter()
        self.delay, self.ranges = delay, ranges
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault(self, path: str) -> Any:
        """What happens to this request."""
        faults = self.faults[path]
        if not faults:
            return "fine"
        return faults[0] if path in self.for_ever and len(faults) == 1 else faults.pop(0)

    def __enter__(self) -> FileServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave."""


def _handler(owner: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            owner.requests[f"{self.command} {path}"] += 1
            fault = owner.fault(path)
            time.sleep(5 if fault == "slow" else owner.delay)
            if fault == "reset":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif isinstance(fault, int | tuple):
                status, body = fault if isinstance(fault, tuple) else (fault, b"")
                self._send(status, body, {})
            elif path not in owner.files:
                self._send(404, b"not here", {})
            else:
                self._send_file(owner.files[path], cut=fault == "cut")

        def _send_file(self, data: bytes, cut: bool) -> None:
            headers = {"ETag": f'"{hash(data)}"'}
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if match is None or not owner.ranges:
                self._send(200, data, headers, cut)
                return
            start, stop = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
            if start >= len(data):
                self._send(416, b"", headers)
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._send(206, data[start:stop], headers, cut)

        def _send(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection |= cut

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler
