"""Open a source once, then ask it for nights: files, pages of an API, or rows of a query."""

from __future__ import annotations

from include.environment import Endpoint
from include.ingest import http, objects, sql
from include.ingest.request import Fetcher
from include.spec.source import Http, Objects, Source


def opened(source: Source, endpoint: Endpoint) -> Fetcher:
    """Return a function from a `Request` to the parts ``(name, bytes)`` of its night.

    The client is made once and may be used by several threads. The function raises `SourceUnavailable` (its
    subclass `NothingYet` where the source answered that there is nothing) or `PartitionRefused` (too large).
    """
    if isinstance(source, Objects):
        return objects.opened(source, endpoint)
    if isinstance(source, Http):
        return http.opened(source, endpoint)
    return sql.opened(source, endpoint)
