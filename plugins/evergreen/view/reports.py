"""Reports, and the gauges for Prometheus."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from evergreen.view.access import Open, Opened, Readable
from evergreen.view.html import page
from include.reports.paths import HISTORY, REPLAY

# Evidently's reports contain scripts and styles. The sandbox gives them an origin of their own, without
# Airflow's cookie or API, and without network access.
REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline' data:;"
    " script-src 'unsafe-inline' data:; img-src data: blob:; font-src data:; frame-ancestors 'self';"
    " base-uri 'none'; form-action 'none'"
}
DRIFT_REPORT = re.compile(r"monitor/(\d{4}-\d\d-\d\d(?:T\d{4}Z)?)\.html")
DATA_DOCS = re.compile(r"data_docs/([a-z][a-z0-9_]*)/(\d{4}-\d\d-\d\d(?:T\d{4}Z)?)\.html")
MAX_PATH = 200  # characters of a report's path; stores fail on longer names
_REPORT = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_=-]*/)*[A-Za-z0-9_][A-Za-z0-9_.=-]*\.html")

router = APIRouter()


def report_path(path: str) -> str:
    """Return the path of a report below ``reports/``; raise 404 if it isn't valid."""
    if len(path) > MAX_PATH or not _REPORT.fullmatch(path):
        raise HTTPException(
            404, f"{path[:MAX_PATH]!r} is not the name of a report: they end in .html and are below reports/."
        )
    return path


ReportPath = Annotated[str, Depends(report_path)]


@router.get("/report/{usecase}/{path:path}")
def framed_report(request: Request, opened: Opened, path: ReportPath) -> HTMLResponse:
    """Show a report in a frame, with a link back to the use case."""
    if path != HISTORY and not DRIFT_REPORT.fullmatch(path) and not DATA_DOCS.fullmatch(path):
        _stored(opened, path)
    return page(request, "report.html", title=report_title(path), usecase=opened.spec.name, path=path)


def report_title(path: str) -> str:
    """Return what a report is, for the page's title."""
    titles = {HISTORY: "The year", REPLAY: "The replay"}
    kind, _, name = path.removesuffix(".html").rpartition("/")
    kinds = {
        "monitor": f"Drift, partition {name}",
        f"data_docs/{kind.rpartition('/')[2]}": f"Data Docs of {kind.rpartition('/')[2]}, partition {name}",
        "verdict": f"Verdict, training of {name[:16] if name[10:11] == 'T' else name[:10]}",
    }
    return titles.get(path) or kinds.get(kind, path)


@router.get("/reports/{usecase}/{path:path}")
def report(
    opened: Opened, path: ReportPath, theme: Literal["light", "dark", "system"] = "system"
) -> Response:
    """Return a report as it is stored; *The year*, drift reports and Data Docs are drawn when opened.

    Parameters
    ----------
    theme : the colors to show it in.
    """
    if path == HISTORY:
        from include.reports.history import draw_history  # it imports Matplotlib

        content = draw_history(opened.lake, opened.spec)[1].encode()
    elif drift := DRIFT_REPORT.fullmatch(path):
        from include.monitor.report import drift_report  # it imports Evidently

        content = drift_report(opened.lake, opened.spec, drift[1]).encode()
    elif docs := DATA_DOCS.fullmatch(path):
        from include.reports.data_docs import data_docs  # it imports Great Expectations

        content = data_docs(opened.lake, opened.spec, docs[1], docs[2]).encode()
    else:
        content = _stored(opened, path)
    content = content.replace(b"<html", f'<html data-theme="{theme}"'.encode(), 1)
    return Response(content, media_type="text/html", headers=REPORT_HEADERS)


@router.get("/metrics")
def metrics(usecases: Readable) -> Response:
    """Return the gauges of every use case that Prometheus' user may read."""
    # pyarrow and deltalake: at the first request, not while Airflow starts
    from include.ops.prometheus import CONTENT_TYPE, HELP, exposition_text, scrape

    samples = [sample for name in usecases for sample in scrape(name)]
    return Response(exposition_text(samples, HELP), media_type=CONTENT_TYPE)


def _stored(opened: Open, path: str) -> bytes:
    data = opened.lake.get(f"reports/{path}")
    if data is None:
        raise HTTPException(404, f"{opened.spec.name} has no report {path}; its judge tasks write them.")
    return data
