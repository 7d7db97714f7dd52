"""Servers in threads of the test, of a model that can be held up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from small_classifier import small_classifier
from torch import Tensor

from dinotrain.intake.entry import Intake
from dinotrain.intake.fetch import Fetcher
from dinotrain.intake.limits import Limits
from dinotrain.predicting.model import Model
from dinotrain.serving.app import create_app
from dinotrain.serving.limits import ServerLimits
from dinotrain.serving.server import Server, listening
from dinotrain.serving.service import Service


class HeldUp(Model):
    """A model that answers only while `free` is set, and fails at images that are all black."""

    free: threading.Event

    def probabilities(self, pixels: Tensor) -> Tensor:
        assert self.free.wait(120)
        if (pixels.flatten(1) == 0).all(dim=1).any():
            raise RuntimeError("/secret/place.py: CUDA error")
        return super().probabilities(pixels)


class Running:
    """A server that runs."""

    def __init__(
        self,
        *,
        limits: dict[str, Any] | None = None,
        labels: Any = "single",
        thresholds: tuple[float, ...] = (),
        fetcher: Fetcher | None = None,
        max_batch: int = 8,
        max_wait_ms: float = 20.0,
    ) -> None:
        model = HeldUp.of_classifier(small_classifier(labels, thresholds), name="small")
        assert isinstance(model, HeldUp)
        self.model = model
        self.model.free = threading.Event()
        self.model.free.set()
        server_limits = ServerLimits(**(limits or {}))
        intake = Intake(limits=Limits(max_mb=1, max_megapixels=4), fetcher=fetcher)
        self.service = Service(
            self.model, intake=intake, limits=server_limits, max_batch=max_batch, max_wait_ms=max_wait_ms, decoders=2
        )
        self.lines: list[str] = []
        self.listener = listening("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        began = threading.Event()
        self.guard = create_app(self.service, log=self.lines.append)
        self.server = Server(self.guard, limits=server_limits, started=began.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)
        self.thread.start()
        assert began.wait(60)
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def post(self, path: str, *images: str, **params: Any) -> httpx.Response:
        return self.client.post(path, json={"input_data": list(images), **({"params": params} if params else {})})

    def later(self, *images: str) -> Callable[[], httpx.Response]:
        """Ask in a thread; call what comes back for the answer."""
        found: list[httpx.Response] = []
        ask = httpx.Client(base_url=self.url, timeout=60)
        thread = threading.Thread(target=lambda: found.append(ask.post("/score", json={"input_data": list(images)})))
        thread.start()

        def answer() -> httpx.Response:
            thread.join(60)
            ask.close()
            return found[0]

        return answer

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def until(self, name: str, value: float) -> None:
        """Wait until a metric has this value."""
        end = time.monotonic() + 60
        while (found := self.metric(name)) != value:
            assert time.monotonic() < end, f"{name} is {found}, not {value}"
            time.sleep(0.01)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def stop(self) -> None:
        self.model.free.set()
        self.server.should_exit = True
        self.thread.join(60)
        self.client.close()


Start = Callable[..., Running]
