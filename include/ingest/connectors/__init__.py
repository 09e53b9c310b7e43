"""Connectors: how raw data is fetched from object stores, HTTP APIs and SQL databases.

To add a connector, write a module here with a subclass of `include.spec.source.BaseSource` and a function
``open_source(source, endpoint)``, and add one line to `include.spec.source.CONNECTORS`. Import libraries
inside the functions that need them: the module is imported when a DAG file is parsed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.environment import Endpoint
    from include.ingest.connectors.request import Fetcher
    from include.spec.source import Source


def open_source(source: Source, endpoint: Endpoint) -> Fetcher:
    """Return a function from a `Request` to the parts ``(name, bytes)`` of its partition.

    It is opened by the connector that is registered for the source's kind. The client is created once and is
    safe to use from several threads. The function raises `SourceUnavailable` (its subclass `NotAvailableYet`
    where the source answered that it has no data yet) or `PartitionRefused` (too large).
    """
    connector = sys.modules[type(source).__module__]
    fetcher: Fetcher = connector.open_source(source, endpoint)
    return fetcher
