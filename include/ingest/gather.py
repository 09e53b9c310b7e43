"""Ask a source for nights that aren't kept yet, several at once, and keep what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

from include.environment import Connect
from include.errors import CircuitOpen, EvergreenError, PartitionRefused, SourceUnavailable
from include.ingest.breaker import Breaker
from include.ingest.fetch import opened
from include.ingest.request import Fetcher, NothingYet, Request, request
from include.ingest.snapshot import keep
from include.lake import Lake
from include.spec import UseCase

THREADS = 8


def gather(
    lake: Lake,
    spec: UseCase,
    source: str,
    nights: Sequence[str],
    connect: Connect,
    known: Callable[[str], datetime],
    *,
    anew: bool,
) -> dict[str, EvergreenError]:
    """Fetch and keep nights, and return the error of each that could not be had.

    Parameters
    ----------
    known : from a night to the knowledge time of a new revision.
    anew : other content than what is kept is a new revision.

    Raises
    ------
    SettingError, SpecError
        for a connection or a declaration with which nothing can be fetched.
    """
    if not nights:
        return {}
    declared = spec.sources[source]
    fetcher = opened(declared, connect(declared.connection))
    breaker = Breaker(lake, source, declared.fetch)

    def one(night: str) -> EvergreenError | None:
        return _kept(
            lake, request(spec, source, night), source, fetcher, breaker, partial(known, night), anew
        )

    # the first alone: where the circuit is open it is the probe, whose success lets the others in
    errors = [one(nights[0])]
    with ThreadPoolExecutor(THREADS) as pool:
        errors += pool.map(one, nights[1:])
    return {night: error for night, error in zip(nights, errors, strict=True) if error is not None}


def _kept(
    lake: Lake,
    asked: Request,
    source: str,
    fetcher: Fetcher,
    breaker: Breaker,
    known: Callable[[], datetime],
    anew: bool,
) -> EvergreenError | None:
    try:
        breaker.admit(asked.subject)
        parts = list(fetcher(asked))
    except CircuitOpen as error:
        return error
    except (NothingYet, PartitionRefused) as error:  # it answered
        breaker.succeeded()
        return error
    except SourceUnavailable as error:
        breaker.failed()
        return error
    breaker.succeeded()
    keep(lake, source, asked.source, asked.night, parts, known, anew=anew)
    return None
