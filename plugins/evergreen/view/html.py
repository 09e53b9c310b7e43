"""Render templates as HTML responses, with all values escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.reports.html import figure, percent

# Airflow stores its color theme here; without it the browser's preference is used
SCRIPT = "try{document.documentElement.dataset.theme=localStorage.getItem('theme')||'system'}catch{}"
SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters |= {"figure": figure, "percent": percent}


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template; in it, ``link(route, **parts)`` returns the path of another page."""

    def link(route: str, **parts: Any) -> str:
        return f"{request.scope['root_path']}{request.app.url_path_for(route, **parts)}"

    text = templates.get_template(template).render(link=link, script=SCRIPT, **values)
    return HTMLResponse(text, status)
