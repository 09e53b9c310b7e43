"""The HTTP side: routes, the token, limits, and what the OpenAPI document says."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.background import BackgroundTask
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from include.serve.rows import MAX_BYTES, MAX_ROWS, RequestRefused
from include.serve.service import Service

MAX_REQUESTS = 64  # that are being read or answered at once
READ_SECONDS = 10.0  # in which a request's body has to arrive
INLINE_BYTES = 16 << 10  # of a body that is answered at once; a larger one has a thread, so that others go on
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})  # what a container's probes ask without a token
JSON = "application/json"


def create_app(service: Service, token: str, allowed_hosts: frozenset[str]) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    token : that each request has to carry; empty for none.
    allowed_hosts : without a token, the values of the header Host that are accepted.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        workers.shutdown()
        shadows.shutdown()
        service.stop()

    workers, shadows = ThreadPoolExecutor(1, "predict"), ThreadPoolExecutor(1, "shadow")
    # FastAPI's own pages load scripts from a CDN, so there are none
    app = FastAPI(
        title=f"Evergreen: {service.spec.name}",
        description=service.spec.problem.statement,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.exception_handler(RequestRefused)
    async def refuse(request: Request, error: RequestRefused) -> Response:
        return _refusal(error)

    @app.post("/predict", openapi_extra=_documentation(service), response_class=Response)
    async def predict(request: Request) -> Response:
        """Return a prediction for each row, with who served it."""
        body, loop = await _body(request), asyncio.get_running_loop()
        if len(body) <= INLINE_BYTES and service.loaded.runs_inline:
            answer = service.answer(body)
        else:
            answer = await loop.run_in_executor(workers, service.answer, body)

        async def score_shadows() -> None:
            await loop.run_in_executor(shadows, service.score_shadows, answer)

        # after the answer was sent; the limit of requests at once counts it still
        background = BackgroundTask(score_shadows) if service.has_shadows(answer) else None
        return Response(answer.content, media_type=JSON, background=background)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Return which models serve, which can't and why, and how old the features are."""
        return service.health()

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        """Return 200 while the process answers."""
        return {"live": True}

    @app.get("/health/ready")
    async def ready() -> Response:
        """Return 200 once the ledger was read and its models are loaded, else 503."""
        is_ready = service.follower.current is not None
        return Response(json.dumps({"ready": is_ready}), 200 if is_ready else 503, media_type=JSON)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(service.metrics_text(), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(_AuthAndLimits, service=service, token=token, allowed_hosts=allowed_hosts)
    return app


class _AuthAndLimits:
    """Refuses what has no token or is beyond the limits, before any of its body is read."""

    def __init__(self, app: ASGIApp, service: Service, token: str, allowed_hosts: frozenset[str]) -> None:
        self._app, self._metrics = app, service.metrics
        self._authorization, self._allowed_hosts = f"Bearer {token}".encode() if token else b"", allowed_hosts
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refused = None if scope["path"] in OPEN_PATHS else self._unauthorized(headers)
        if scope["path"] != "/predict" or scope["method"] != "POST":
            await (_refusal(refused) if refused else self._app)(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._in_progress += 1
        self._metrics.in_progress.set(self._in_progress)
        try:
            refused = refused or self._beyond_limits(headers)
            await (_refusal(refused) if refused else self._app)(scope, receive, send_watched)
        finally:
            self._in_progress -= 1
            self._metrics.in_progress.set(self._in_progress)
            self._metrics.requests.labels(status).inc()
            self._metrics.seconds.observe(time.perf_counter() - began)

    def _unauthorized(self, headers: Mapping[bytes, bytes]) -> RequestRefused | None:
        if self._authorization:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._authorization):
                required = "the header Authorization: Bearer <EVERGREEN_SERVE_TOKEN>"
                remedy = "send the token that the server was started with"
                return RequestRefused(
                    401, "request", required=required, found="none, or another token", remedy=remedy
                )
            return None
        host = re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1"))
        if host not in self._allowed_hosts:
            # a page in a browser could reach this server under a name of its own
            return RequestRefused(
                421,
                "header Host",
                required=" or ".join(sorted(self._allowed_hosts)),
                found=host[:100] or "none",
                remedy="use one of these, or set EVERGREEN_SERVE_TOKEN and send it",
            )
        return None

    def _beyond_limits(self, headers: Mapping[bytes, bytes]) -> RequestRefused | None:
        if self._in_progress > MAX_REQUESTS:
            found = f"{self._in_progress - 1} others"
            return RequestRefused(
                429, "requests", required=f"at most {MAX_REQUESTS} at once", found=found, remedy="try again"
            )
        if not headers.get(b"content-type", b"").startswith(JSON.encode()):
            # a page in a browser can send any other type without asking first
            content_type = headers.get(b"content-type", b"none").decode("latin-1")[:100]
            return RequestRefused(
                415,
                "header Content-Type",
                required=JSON,
                found=content_type,
                remedy=f"send the header Content-Type: {JSON}",
            )
        length = int(headers.get(b"content-length", b"0"))  # uvicorn accepts digits only
        return _too_large(str(length)) if length > MAX_BYTES else None


async def _body(request: Request) -> bytes:
    """Return a request's body; at most `MAX_BYTES` of it are read."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BYTES:
                    raise _too_large("more")
                parts.append(part)
    except TimeoutError:
        required = f"the whole body within {READ_SECONDS:g} seconds"
        remedy = "send it faster, or in several requests"
        raise RequestRefused(408, "body", required=required, found=f"{size} bytes", remedy=remedy) from None
    return b"".join(parts)


def _too_large(size: str) -> RequestRefused:
    return RequestRefused(
        413, "body", required=f"at most {MAX_BYTES >> 20} MiB", found=size, remedy="send several requests"
    )


def _refusal(error: RequestRefused) -> Response:
    """Return an error's answer."""
    parts = {name: getattr(error, name) for name in ("subject", "required", "found", "remedy")}
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "2"}}
    text = json.dumps({"error": error.sentence(), **parts})
    return Response(text, error.status, headers.get(error.status), JSON)


def _documentation(service: Service) -> dict[str, Any]:
    """Return what OpenAPI says of a request's body: each column and what it takes."""
    spec, takes = service.spec, service.reader.example
    row = {
        "type": "object",
        "properties": {name: {"description": text} for name, text in takes.items()},
        "description": f"either the key ({', '.join(spec.key)}) alone, or every feature "
        f"({', '.join(spec.features.columns)}), with the key or without",
    }
    rows = {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": row}
    schema = {"type": "object", "required": ["rows"], "properties": {"rows": rows}}
    refused = {
        "400": "not JSON, or a key that comes twice",
        "401": "no token, or another one",
        "404": "a key that isn't in the newest partition",
        "408": "the body didn't arrive in time",
        "413": "too many bytes or rows",
        "415": "a type other than application/json",
        "421": "another host than this server's",
        "422": "a column that the declaration doesn't allow; the error names row and column",
        "429": "too many requests at once",
        "503": "no model is loaded yet, no features are in memory, or the request can't be logged",
    }
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "responses": {status: {"description": text} for status, text in refused.items()},
    }
