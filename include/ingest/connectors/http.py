"""A partition is the pages of a JSON API; each page is asked for, and retried, on its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from include.environment import Endpoint
from include.errors import PartitionRefused, SettingError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.ingest.parsing import limits
from include.spec.source import Http

THREADS = 8  # connections that are kept open


class _Bearer(AuthBase):
    """The token in a header; as an ``auth`` object it can't be replaced by a netrc file."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token:
            r.headers["Authorization"] = f"Bearer {self.token}"
        return r


def open_source(source: Http, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's pages in order."""
    _carried(endpoint)
    session = requests.Session()
    session.auth = _Bearer(endpoint.password)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=THREADS))

    def fetch(asked: Request) -> Iterator[Part]:
        path = asked.filled(source.path)
        url = f"{endpoint.uri}/{path.lstrip('/')}"
        number, pages, total = 1, 1, 0
        while number <= pages:
            where = f"{path}, page {number}" if source.pages else path
            data, content = with_retries(asked, partial(_page, session, asked, url, number, where), where)
            pages = _count(asked, source, content, where) if number == 1 else pages
            total += len(data)
            if total > source.fetch.max_bytes:
                raise asked.too_large(f"{path}, {number} pages together")
            yield f"page-{number:05}.json", data
            number += 1

    return fetch


def _carried(endpoint: Endpoint) -> None:
    """Refuse a token that no header carries: what is raised for it later would show it."""
    if not endpoint.password.isascii() or endpoint.password != endpoint.password.strip():
        raise SettingError(
            f"connection {endpoint.name}",
            required="a password of ASCII characters without a space or line break around it",
            found="another",
            remedy="write it again; one that was read from a file may have kept the file's last line break",
        )


def _page(session: requests.Session, asked: Request, url: str, number: int, where: str) -> tuple[bytes, Any]:
    """Return one page's bytes and its content.

    Raises
    ------
    Transient
        for what may pass: no connection, a timeout, 429, 5xx, a body that is cut off or no JSON.
    """
    source = asked.source
    assert isinstance(source, Http)
    params = {source.page: number} if source.pages else None
    timeout = source.fetch.timeout
    try:
        with session.get(url, params=params, timeout=timeout, stream=True) as answer:
            if answer.status_code == 404 and number == 1:
                raise asked.nothing(where)
            if answer.status_code >= 500 or answer.status_code == 429:
                raise TransientError(f"HTTP {answer.status_code}")
            if answer.status_code != 200:
                raise asked.unavailable(f"HTTP {answer.status_code}", where)
            data = _body(answer, asked, where)
    except requests.RequestException as error:
        # its text may hold the address with what is in it: the kind says enough
        raise TransientError(type(error).__name__) from None
    limits.check_json_size(asked, where, data)
    try:
        return data, json.loads(data)
    except (ValueError, RecursionError):
        raise TransientError("a body that is not JSON") from None


def _body(answer: requests.Response, asked: Request, where: str) -> bytes:
    """Return the body, unpacked, within the size and the time that the spec admits."""
    fetch = asked.source.fetch
    begun, size, chunks = time.monotonic(), 0, []
    for chunk in answer.iter_content(1 << 16):
        size += len(chunk)
        if size > fetch.max_bytes:
            raise asked.too_large(where)
        if time.monotonic() - begun > fetch.timeout:  # requests' own timeout is for each read alone
            raise TransientError("a timeout")
        chunks.append(chunk)
    return b"".join(chunks)


def _count(asked: Request, source: Http, content: Any, where: str) -> int:
    if source.pages is None:
        return 1
    found = content.get(source.pages) if isinstance(content, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise PartitionRefused(
            asked.subject,
            required=f"the number of pages under {source.pages!r}",
            found=repr(found),
            where=where,
            remedy="say in the spec which field holds it (`pages:`), or `pages: null` if there is none",
        )
    limits.limit_count(asked, where, "pages", found)
    return found
