"""What Prometheus scrapes of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)  # bounds of the histogram


class Metrics:
    """The metrics of one server, apart from those of the process's other libraries."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "evergreen_serve_requests", "Answered requests to /predict.", ["status"], registry=self.registry
        )
        self.seconds = Histogram(
            "evergreen_serve_request_seconds",
            "Seconds from the request's headers to the end of its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rows = Counter(
            "evergreen_serve_rows",
            "Rows by the step of the fallback chain that served them.",
            ["served_by", "version"],
            registry=self.registry,
        )
        self.logged = Counter(
            "evergreen_serve_logged_rows", "Rows that were written to the log.", registry=self.registry
        )
        self.shadow_failures = Counter(
            "evergreen_serve_shadow_failures",
            "Times that a model on trial couldn't predict a request's rows, or they couldn't be logged.",
            registry=self.registry,
        )
        self.pending = self._gauge("log_pending_bytes", "Bytes of the log that aren't in the lake yet.")
        self.in_progress = self._gauge("requests_in_progress", "Requests to /predict that aren't answered.")
        self.switch = self._gauge("switch", "Number of the newest switch in the ledger that is loaded.")
        self.available = self._gauge(
            "step_available", "Whether the model of a step is loaded.", "served_by", "version"
        )
        self.following = self._gauge("following", "Whether the tables could be read at the last look.")
        self.age = self._gauge("features_age_seconds", "Seconds since the decision of the features.")

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"evergreen_serve_{name}", text, labels, registry=self.registry)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
