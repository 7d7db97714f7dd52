"""How much is taken on, by a server that strangers may ask."""

from __future__ import annotations

from dataclasses import dataclass

from dinotrain.data.arguments import number, whole


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """How much is taken on.

    Args:
        images: most in a request.
        request_mb: most of a request's body, in millions of bytes.
        bodies_mb: of all bodies together that are held at the same time, likewise; more are told to come later (429).
        requests: that are answered at the same time; likewise.
        queue: images of all requests that are waiting for their answer; likewise.
        connections: at the same time; more are closed at once.
        head_seconds: until the first line and the headers of a request have to be there.
        body_seconds: until its body has to be there; and that a client gets to read on in an answer.
        answer_seconds: until it has to be answered, from then on.
        stop_seconds: that requests get to be answered when the server is to end.

    Raises:
        ValueError: for a limit that is not above 0.
    """

    images: int = 64
    request_mb: float = 32.0
    bodies_mb: float = 256.0
    requests: int = 64
    queue: int = 256
    connections: int = 512
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    stop_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("images", "requests", "queue", "connections"):
            whole(name, getattr(self, name), 1)
        for name in ("request_mb", "bodies_mb", "head_seconds", "body_seconds", "answer_seconds", "stop_seconds"):
            number(name, getattr(self, name), 1e-3)
        if self.bodies_mb < self.request_mb:
            raise ValueError(f"bodies_mb: got {self.bodies_mb}, expected at least request_mb, {self.request_mb:g}")
        if self.queue < self.images:
            raise ValueError(f"queue: got {self.queue}, expected at least {self.images}, the most images of a request")

    @property
    def request_bytes(self) -> int:
        """Most of a request's body."""
        return int(self.request_mb * 10**6)

    @property
    def all_bytes(self) -> int:
        """Most of all bodies together."""
        return int(self.bodies_mb * 10**6)
