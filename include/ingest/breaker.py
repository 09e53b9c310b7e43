"""A source that keeps failing isn't asked for a while; then one probe asks, and its answer decides for all.

The state lies in the lake, so it outlives a run and is shared by all processes. It says how to treat a source
now and is no part of any result, which is why this page alone may read the wall clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock

from include.errors import CircuitOpen
from include.spec.source import Fetch
from include.storage.lake import Lake


def _wall() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class CircuitState:
    """Failures in a row, and since when the circuit is open (ISO time; empty: closed)."""

    failures: int = 0
    opened: str = ""


class Breaker:
    """The circuit of one source.

    Parameters
    ----------
    lake, source : whose state it is, the object ``state/breaker/<source>.json``.
    fetch : ``failures`` in a row open the circuit, ``cool_down`` seconds later one probe is admitted.
    now : the clock.
    """

    def __init__(self, lake: Lake, source: str, fetch: Fetch, now: Callable[[], datetime] = _wall) -> None:
        self.lake, self.source, self.fetch, self.now = lake, source, fetch, now
        self.key = f"state/breaker/{source}.json"
        self._lock = Lock()

    def state(self) -> CircuitState:
        """Return the state as it is kept."""
        data = self.lake.get(self.key)
        return CircuitState(**json.loads(data)) if data else CircuitState()

    def admit(self, subject: str) -> None:
        """Let a caller ask the source.

        Raises
        ------
        CircuitOpen
            while the circuit is open, to all but the one caller who claims the probe. A claim holds for one
            ``cool_down``, so that a prober who was killed keeps nobody out for longer.
        """
        state = self.state()
        if not state.opened:
            return
        opened = datetime.fromisoformat(state.opened)
        pause = max(self.fetch.cool_down, 0.001)
        window = int((self.now() - opened).total_seconds() / pause)
        stamp = opened.strftime("%Y%m%dT%H%M%S%f")
        if window >= 1 and self.lake.create(f"state/breaker/{self.source}/{stamp}-{window}.probe", b""):
            return
        probe = opened + timedelta(seconds=pause * (window + 1))
        raise CircuitOpen(
            subject,
            required="a source that answers",
            found=f"{state.failures} failures in a row; it isn't asked before {probe:%H:%M:%S} UTC",
            where=f"{self.lake.uri}/{self.key}",
            remedy="look at the source; the first success closes the circuit, as does deleting that object",
        )

    def succeeded(self) -> None:
        """Close the circuit."""
        with self._lock:
            if self.state() != CircuitState():
                self._keep(CircuitState())

    def failed(self) -> None:
        """Count a failure; with enough of them the circuit opens, or stays open for another ``cool_down``."""
        with self._lock:
            failures = self.state().failures + 1
            self._keep(
                CircuitState(failures, self.now().isoformat() if failures >= self.fetch.failures else "")
            )

    def _keep(self, state: CircuitState) -> None:
        self.lake.replace(self.key, json.dumps(asdict(state)).encode())
