"""The FastAPI app that Airflow mounts at /evergreen: login, security headers and error pages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from fastapi import Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from evergreen.view import alerts, column, compare, overview, partition, quality, reports, usecase
from evergreen.view.access import may_enter
from evergreen.view.html import SCRIPT_DIGESTS, UNREADABLE, page
from include.errors import EvergreenError, SettingError, StoreUnavailable

log = logging.getLogger(__name__)

# a page runs only its own two scripts, one of which calls Airflow's API
SCRIPTS = " ".join(f"'sha256-{digest}'" for digest in SCRIPT_DIGESTS)
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {SCRIPTS}; connect-src 'self';"
        " img-src data:; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}

REFUSALS = {
    401: ("Not logged in", "Log in to Airflow to see this page."),
    403: ("Not for this role", "Your Airflow role may not read this."),
}

# no schema and no documentation pages, because FastAPI adds those routes without our dependencies; and no
# redirect for a trailing slash, because it would lead to the host that the request names
app = FastAPI(
    title="Evergreen",
    dependencies=[Depends(may_enter)],
    openapi_url=None,
    docs_url=None,
    redoc_url=None,
    redirect_slashes=False,
)
for module in (overview, usecase, partition, column, quality, compare, alerts, reports):
    app.include_router(module.router)


@app.middleware("http")
async def add_security_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Add the headers to every response that doesn't set its own."""
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@app.exception_handler(StarletteHTTPException)
def show_http_error(request: Request, error: StarletteHTTPException) -> Response:
    """Show why there is no page, and where to log in."""
    heading, sentence = REFUSALS.get(error.status_code, ("Nothing here", str(error.detail)))
    # only the path: a client can send any Host
    back = quote(request.scope["path"])
    login = get_auth_manager().get_url_login(next_url=back) if error.status_code == 401 else ""
    return page(
        request, "message.html", status=error.status_code, heading=heading, sentence=sentence, login=login
    )


@app.exception_handler(EvergreenError)
def show_evergreen_error(request: Request, error: EvergreenError) -> Response:
    """Show an `EvergreenError` by its message."""
    log.warning("%s: %s", request.url.path, error)
    status = 503 if isinstance(error, SettingError | StoreUnavailable) else 404
    sentence = UNREADABLE if isinstance(error, StoreUnavailable) else str(error)
    return page(request, "message.html", status=status, heading="Can't be shown", sentence=sentence, login="")
