"""Opens a source with the connector that is registered for its kind."""

from __future__ import annotations

import sys

from include.environment import Endpoint
from include.ingest.connectors.request import Fetcher
from include.spec.source import Source


def open_source(source: Source, endpoint: Endpoint) -> Fetcher:
    """Return a function from a `Request` to the parts ``(name, bytes)`` of its partition.

    The client is created once and is safe to use from several threads. The function raises
    `SourceUnavailable` (its subclass `NotAvailableYet` where the source answered that it has no data yet) or
    `PartitionRefused` (too large).
    """
    connector = sys.modules[type(source).__module__]
    fetcher: Fetcher = connector.open_source(source, endpoint)
    return fetcher
