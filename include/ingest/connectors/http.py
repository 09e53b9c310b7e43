"""The HTTP connector: a partition is the pages of a JSON API, each requested and retried separately."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from include.environment import Endpoint
from include.errors import PartitionRefused, SettingError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.spec.source import BaseSource

if TYPE_CHECKING:
    import requests

POOL_SIZE = 8  # connections that stay open


class HttpSource(BaseSource):
    """A paged JSON API: pages are requested until the page count in the response is reached."""

    kind: Literal["http"]
    path: str = Field(description="below the connection, with {day}, {hour}, {minute} or {partition}")
    rows: str = Field("rows", description="the field that holds the page's rows")
    pages: str | None = Field(
        "pages", description="the field with the number of pages; null if there is a single page"
    )
    page: str = Field("page", description="the query parameter that numbers pages from 1")
    volatile: tuple[str, ...] = Field(
        (), description="fields that change with each response; ignored when content is compared"
    )

    @property
    def path_templates(self) -> tuple[str, ...]:
        """Return the path below the connection."""
        return (self.path,)

    @property
    def part_format(self) -> Literal["json"]:
        """Return the format of each page."""
        return "json"

    @property
    def rows_field(self) -> str:
        """Return the field that holds a page's rows."""
        return self.rows

    @property
    def volatile_fields(self) -> tuple[str, ...]:
        """Return the fields that change with each response."""
        return self.volatile


def open_source(source: HttpSource, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's pages in order."""
    session = _session(endpoint)

    def fetch(request: Request) -> Iterator[Part]:
        path = request.fill_path(source.path)
        url = f"{endpoint.uri}/{path.lstrip('/')}"
        number, page_count, total_size = 1, 1, 0
        while number <= page_count:
            where = f"{path}, page {number}" if source.pages else path
            get_page = partial(_get_page, session, source, request, url, number, where)
            data, content = with_retries(request, get_page, where)
            if number == 1:
                page_count = _page_count(request, source, content, where)
                if page_count <= 1:
                    rows = content.get(source.rows, content) if isinstance(content, dict) else content
                    request.require_rows(rows is not None and rows != [], where)
            total_size += len(data)
            if total_size > source.fetch.max_bytes:
                raise request.too_large(f"{path}, {number} pages together")
            yield f"page-{number:05}.json", data
            number += 1

    return fetch


def _session(endpoint: Endpoint) -> requests.Session:
    """Return a session that sends the connection's password as a bearer token."""
    import requests
    from requests.adapters import HTTPAdapter

    _require_header_safe(endpoint)

    def add_token(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        if endpoint.password:
            prepared.headers["Authorization"] = f"Bearer {endpoint.password}"
        return prepared

    session = requests.Session()
    session.auth = add_token  # a header set on the session could be replaced by a netrc file
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=POOL_SIZE))
    return session


def _require_header_safe(endpoint: Endpoint) -> None:
    """Reject a token that can't be sent in a header: the error that a request raises later would show it."""
    if not endpoint.password.isascii() or endpoint.password != endpoint.password.strip():
        raise SettingError(
            f"connection {endpoint.name}",
            required="a password of ASCII characters without surrounding spaces or line breaks",
            found="other characters",
            remedy="enter it again; a password copied from a file may include the file's last line break",
        )


def _get_page(
    session: requests.Session, source: HttpSource, request: Request, url: str, number: int, where: str
) -> tuple[bytes, Any]:
    """Return one page's bytes and its content.

    Raises
    ------
    TransientError
        for what a retry may fix: no connection, a timeout, 429, 5xx, a truncated body or invalid JSON.
    """
    import requests

    from include.ingest.parsing import limits

    params = {source.page: number} if source.pages else None
    timeout = source.fetch.timeout
    try:
        with session.get(url, params=params, timeout=timeout, stream=True) as response:
            if response.status_code == 404 and number == 1:
                raise request.not_available_yet(where)
            if response.status_code >= 500 or response.status_code == 429:
                raise TransientError(f"HTTP {response.status_code}")
            if response.status_code != 200:
                raise request.unavailable(f"HTTP {response.status_code}", where)
            data = _read_body(response, request, where)
    except requests.RequestException as error:
        # the error's text may repeat the URL with secrets in it, so only its type is shown
        raise TransientError(type(error).__name__) from None
    limits.check_json_size(request, where, data)
    try:
        return data, json.loads(data)
    except (ValueError, RecursionError):
        raise TransientError("a body that is not JSON") from None


def _read_body(response: requests.Response, request: Request, where: str) -> bytes:
    """Return the decompressed body, within the size and the time that the spec allows."""
    fetch = request.source.fetch
    started, size, chunks = time.monotonic(), 0, []
    for chunk in response.iter_content(1 << 16):
        size += len(chunk)
        if size > fetch.max_bytes:
            raise request.too_large(where)
        if time.monotonic() - started > fetch.timeout:  # requests applies its own timeout to each read
            raise TransientError("a timeout")
        chunks.append(chunk)
    return b"".join(chunks)


def _page_count(request: Request, source: HttpSource, content: Any, where: str) -> int:
    from include.ingest.parsing import limits

    if source.pages is None:
        return 1
    count = content.get(source.pages) if isinstance(content, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise PartitionRefused(
            request.subject,
            required=f"the number of pages under {source.pages!r}",
            found=repr(count),
            where=where,
            remedy="in usecase.yaml, set `pages` to the field with the page count, or to null without one",
        )
    limits.limit_count(request, where, "pages", count)
    return count
