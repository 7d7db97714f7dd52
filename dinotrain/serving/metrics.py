"""What is counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server.

    Args:
        waiting: how many images are waiting for their answers.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dinotrain_requests", "Requests, by status of the answer.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "dinotrain_request_seconds",
            "From the first line of a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._images = Counter(
            "dinotrain_images", "Images: answered, or why not.", ["outcome"], registry=self._registry
        )
        self._batches = Histogram(
            "dinotrain_batch_images", "Images that were asked about at once.", buckets=_IMAGES, registry=self._registry
        )
        queue = Gauge("dinotrain_queue_images", "Images that wait for their answers.", registry=self._registry)
        queue.set_function(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def image(self, outcome: str) -> None:
        """Count an image."""
        self._images.labels(outcome).inc()

    def batch(self, images: int) -> None:
        """Count a batch."""
        self._batches.observe(images)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)
