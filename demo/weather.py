"""The demo's weather API: paged JSON over HTTP, with a bearer token."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = 24  # rows: a day of one airport

Days = dict[str, list[dict[str, Any]]]


class WeatherServer(ThreadingHTTPServer):
    """A server of `GET /weather?day=YYYY-MM-DD&page=K`, with pages from 1, and of `GET /healthz`."""

    daemon_threads = True

    def __init__(self, days: Days, port: int, token: str, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), _Handler)
        self.days = days
        self.expected = f"Bearer {token}".encode()

    def answer(self, target: str, authorization: str) -> tuple[HTTPStatus, dict[str, Any]]:
        """Return the status and body for a request's target and Authorization header."""
        url = urlsplit(target)
        if url.path == "/healthz":
            return HTTPStatus.OK, {"status": "ok"}
        if not hmac.compare_digest(authorization.encode(), self.expected):
            return HTTPStatus.UNAUTHORIZED, {"error": "a bearer token is required"}
        if url.path != "/weather":
            return HTTPStatus.NOT_FOUND, {
                "error": f"no such path: {url.path}; valid are /weather and /healthz"
            }
        query = parse_qs(url.query)
        day, page = query.get("day", [""])[-1], query.get("page", ["1"])[-1]
        rows = self.days.get(day)
        if rows is None:
            return HTTPStatus.NOT_FOUND, {"error": f"no weather for day {day!r}; a day is written YYYY-MM-DD"}
        pages = -(-len(rows) // PAGE)
        if not page.isdecimal() or not 1 <= int(page) <= pages:
            return HTTPStatus.NOT_FOUND, {"error": f"no page {page!r} of {day}; it has pages 1 to {pages}"}
        number = int(page)
        part = rows[(number - 1) * PAGE : number * PAGE]
        now = datetime.now(UTC).isoformat()
        return HTTPStatus.OK, {"generated_at": now, "page": number, "pages": pages, "rows": part}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as clients of many pages expect
    server: WeatherServer

    def do_GET(self) -> None:
        status, content = self.server.answer(self.path, self.headers.get("Authorization", ""))
        body = json.dumps(content).encode()
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(days: Days, port: int, token: str, host: str = "127.0.0.1") -> None:
    """Answer requests until the process is stopped."""
    WeatherServer(days, port, token, host).serve_forever()
