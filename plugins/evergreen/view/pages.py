"""What there is to see: a use case's state, a partition's quarantined rows, a report, read anew."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from evergreen.view.access import Named, Open, Opened, Readable
from evergreen.view.html import page
from evergreen.view.kept import kept
from evergreen.view.summary import summary
from include.spec.clock import day_of

# Evidently's reports bring their scripts and styles along. They run in an origin of their own, which has
# neither Airflow's cookie nor its API, and reach nothing on the network.
REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline' data:;"
    " script-src 'unsafe-inline' data:; img-src data: blob:; font-src data:; frame-ancestors 'self';"
    " base-uri 'none'; form-action 'none'"
}
LONGEST = 200  # characters of a report's path; a store fails on a name that is too long for it
_REPORT = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_=-]*/)*[A-Za-z0-9_][A-Za-z0-9_.=-]*\.html")

pages = APIRouter()


def report_path(path: str) -> str:
    """Return the path below ``reports/``, if it can be one's."""
    if len(path) > LONGEST or not _REPORT.fullmatch(path):
        raise HTTPException(
            404, f"{path[:LONGEST]!r} is no report's name: they end in .html and lie below reports/."
        )
    return path


ReportPath = Annotated[str, Depends(report_path)]


@pages.get("/")
def overview(request: Request, usecases: Readable) -> HTMLResponse:
    """Show every use case that the user may read."""
    return page(request, "overview.html", title="Evergreen", sections=[summary(name) for name in usecases])


@pages.get("/usecase/{usecase}")
def usecase(request: Request, name: Named) -> HTMLResponse:
    """Show one use case."""
    return page(request, "overview.html", title=name, sections=[summary(name)])


@pages.get("/report/{usecase}/{path:path}")
def framed_report(request: Request, opened: Opened, path: ReportPath) -> HTMLResponse:
    """Show a report below a line that leads back."""
    _stored(opened, path)
    return page(request, "report.html", title=path, usecase=opened.spec.name, path=path)


@pages.get("/reports/{usecase}/{path:path}")
def report(opened: Opened, path: ReportPath) -> Response:
    """Give a report as it is stored."""
    return Response(_stored(opened, path), media_type="text/html", headers=REPORT_HEADERS)


@pages.get("/quarantine/{usecase}/{partition}")
def quarantine(request: Request, opened: Opened, partition: str) -> HTMLResponse:
    """Show the rows that a partition set aside, each with the rule it broke and the value that broke it."""
    day_of(partition)  # or it says what a partition looks like
    rows, total = kept(opened.lake, opened.spec, partition)
    return page(
        request,
        "quarantine.html",
        title=f"Set aside on {partition}",
        usecase=opened.spec.name,
        partition=partition,
        rows=rows,
        total=total,
    )


@pages.get("/metrics")
def metrics(usecases: Readable) -> Response:
    """Give Prometheus the gauges of every use case that its user may read."""
    # pyarrow and deltalake: at the first request, not while Airflow starts
    from include.ops.prometheus import CONTENT_TYPE, HELP, exposition_text, scrape

    samples = [sample for name in usecases for sample in scrape(name)]
    return Response(exposition_text(samples, HELP), media_type=CONTENT_TYPE)


def _stored(opened: Open, path: str) -> bytes:
    data = opened.lake.get(f"reports/{path}")
    if data is None:
        raise HTTPException(
            404, f"{opened.spec.name} has no report {path}; its monitor and judge tasks write them."
        )
    return data
