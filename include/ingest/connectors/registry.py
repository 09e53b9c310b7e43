"""Open a source once, then ask it for partitions: files, pages of an API, or rows of a query."""

from __future__ import annotations

from include.environment import Endpoint
from include.ingest.connectors import http, objects, sql
from include.ingest.connectors.request import Fetcher
from include.spec.source import Http, Objects, Source


def open_source(source: Source, endpoint: Endpoint) -> Fetcher:
    """Return a function from a `Request` to the parts ``(name, bytes)`` of its partition.

    The client is made once and may be used by several threads. The function raises `SourceUnavailable` (its
    subclass `NothingYet` where the source answered that there is nothing) or `PartitionRefused` (too large).
    """
    if isinstance(source, Objects):
        return objects.open_source(source, endpoint)
    if isinstance(source, Http):
        return http.open_source(source, endpoint)
    return sql.open_source(source, endpoint)
