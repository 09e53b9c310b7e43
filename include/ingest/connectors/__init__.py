"""Connectors: how raw data is fetched from object stores, HTTP APIs, SQL databases and topics.

To add a connector, write a module here with a subclass of `include.spec.source.BaseSource` and a function
``open_source(source, endpoint)``, and add one line to `include.spec.source.CONNECTORS`. A use case's own
module has the same two, and the source's ``kind`` is the class as ``module:name``. Import libraries inside
the functions that need them: the modules here are imported when a DAG file is parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from include.spec.source import PythonSource

if TYPE_CHECKING:
    from include.environment import Endpoint
    from include.ingest.connectors.request import Fetcher, Part, Request
    from include.spec.source import Source


def open_source(source: Source, endpoint: Endpoint) -> Fetcher:
    """Return a function from a `Request` to the parts ``(name, bytes)`` of its partition.

    It is opened by the connector that is registered for the source's kind. The client is created once and is
    safe to use from several threads. The function raises `SourceUnavailable` (its subclass `NotAvailableYet`
    where the source answered that it has no data yet) or `PartitionRefused` (too large). Whatever else a use
    case's own connector raises becomes a `SpecError`.
    """
    if isinstance(source, PythonSource):
        return _open_python(source, endpoint)
    connector = sys.modules[type(source).__module__]
    fetcher: Fetcher = connector.open_source(source, endpoint)
    return fetcher


def _open_python(source: PythonSource, endpoint: Endpoint) -> Fetcher:
    declared, code = source.declared, source.code
    module, required = sys.modules[type(declared).__module__], "open_source(source, endpoint) in the module"
    if not hasattr(module, "open_source"):
        code.fail(f"a function {required}", "none", type(declared))
    fetcher: Fetcher = code.call(required, module.open_source, declared, endpoint, has_secrets=True)

    def fetch(request: Request) -> Iterator[Part]:
        required = "a fetch function that yields a name and bytes for each part"
        yield from code.call(required, lambda: list(fetcher(request)), has_secrets=True)

    return fetch
