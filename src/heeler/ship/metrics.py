"""What the server counts, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5, 10)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "heeler_requests", "Requests that were answered.", ("path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "heeler_request_seconds", "From a request's head to its answer.", ("path",), buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._photos = Histogram(
            "heeler_batch_photos", "Photos of one forward pass.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.waiting = Gauge("heeler_waiting", "Requests that wait or are worked on.", registry=self.registry)
        self.restarts = Gauge(
            "heeler_decoder_restarts", "Decoders that crashed or were killed, and replaced.", registry=self.registry
        )

    def count(self, path: str, status: int, began_s: float) -> None:
        """One request was answered; status 0 where its client had gone."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(time.perf_counter() - began_s)

    def count_batch(self, n_photos: int) -> None:
        """One forward pass was computed."""
        self._photos.observe(n_photos)
