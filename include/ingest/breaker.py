"""Circuit breaker: a source that fails repeatedly isn't requested for a while, then a single probe decides.

The state is stored in the lake, so that it outlives a run and all processes share it. If several processes
count a failure at the same moment, one of them may be lost, and the circuit opens a failure later. It only
decides how to treat a source now and influences no result, so this module may read the wall clock.
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


def _wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class CircuitState:
    """The number of consecutive failures, and since when the circuit is open (ISO time; empty if closed)."""

    failures: int = 0
    opened: str = ""


class Breaker:
    """The circuit breaker of one source.

    Parameters
    ----------
    lake, source : the state is the lake's object ``state/breaker/<source>.json``.
    fetch : ``failures`` consecutive failures open the circuit; ``cooldown`` seconds later one probe is
        admitted.
    now : the clock.
    """

    def __init__(
        self, lake: Lake, source: str, fetch: Fetch, now: Callable[[], datetime] = _wall_clock
    ) -> None:
        self.lake, self.source, self.fetch, self.now = lake, source, fetch, now
        self.key = f"state/breaker/{source}.json"
        self._lock = Lock()

    def state(self) -> CircuitState:
        """Return the stored state."""
        data = self.lake.get(self.key)
        return CircuitState(**json.loads(data)) if data else CircuitState()

    def admit(self, subject: str) -> None:
        """Allow a request to the source, or raise.

        Raises
        ------
        CircuitOpen
            while the circuit is open, for all callers except the one that claims the probe. A claim is valid
            for one ``cooldown``, so a prober that is killed blocks the others for no longer than that.
        """
        state = self.state()
        if not state.opened:
            return
        opened = datetime.fromisoformat(state.opened)
        cooldown = max(self.fetch.cooldown, 0.001)
        window = int((self.now() - opened).total_seconds() / cooldown)
        stamp = opened.strftime("%Y%m%dT%H%M%S%f")
        if window >= 1 and self.lake.create(f"state/breaker/{self.source}/{stamp}-{window}.probe", b""):
            return
        next_probe = opened + timedelta(seconds=cooldown * (window + 1))
        raise CircuitOpen(
            subject,
            required="a source that answers",
            found=f"{state.failures} failures in a row; the next request is allowed at "
            f"{next_probe:%H:%M:%S} UTC",
            where=f"{self.lake.uri}/{self.key}",
            remedy="check the source; the first success closes the circuit, and so does deleting that object",
        )

    def record_success(self) -> None:
        """Close the circuit."""
        with self._lock:
            if self.state() != CircuitState():
                self._store(CircuitState())
                self.lake.remove(self.lake.keys(f"state/breaker/{self.source}"))  # the probes

    def record_failure(self) -> None:
        """Count a failure; enough of them open the circuit, or keep it open for another ``cooldown``."""
        with self._lock:
            failures = self.state().failures + 1
            opens = failures >= self.fetch.failures
            self._store(CircuitState(failures, self.now().isoformat() if opens else ""))

    def _store(self, state: CircuitState) -> None:
        self.lake.replace(self.key, json.dumps(asdict(state)).encode())
