"""Render templates as HTML responses, with all values escaped; and show errors instead of failing."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse

from evergreen.links import PREFIX
from include.errors import EvergreenError, StoreUnavailable
from include.reports.html import figure, metric_label, percent, template_environment
from include.spec import load

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

log = logging.getLogger(__name__)
# in place of an error's own message, which may contain internal addresses
UNREADABLE = "The lake could not be read; the api-server's log says more."
TEMPLATES = Path(__file__).parent / "templates"
# Airflow stores its color theme here; without it the browser's preference is used
SCRIPT = "try{document.documentElement.dataset.theme=localStorage.getItem('theme')||'system'}catch{}"
ACTIONS = (TEMPLATES / "actions.js").read_text()
# a page runs these scripts alone
SCRIPT_DIGESTS = [
    base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (SCRIPT, ACTIONS)
]

templates = template_environment(TEMPLATES)
templates.filters |= {"figure": figure, "metric_label": metric_label, "percent": percent}


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template; in it, ``link(route, **parts)`` returns the path of another page."""

    def link(route: str, **parts: Any) -> str:
        # a column may have any character but a double quote in its name, such as a slash or a question mark
        quoted = {name: quote(str(part)) for name, part in parts.items()}
        return f"{request.scope['root_path']}{request.app.url_path_for(route, **quoted)}"

    airflow = request.scope["root_path"].removesuffix(PREFIX)
    scripts = {"theme_script": SCRIPT, "actions_script": ACTIONS}
    text = templates.get_template(template).render(link=link, airflow=airflow, **scripts, **values)
    return HTMLResponse(text, status)


def guarded(usecase: str, read: Callable[[Lake, UseCase], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``read`` returns of a use case, and the ``error`` if it can't be shown, else "".

    So an error in one use case doesn't affect the others on the page.
    """
    from include.storage.lake import Lake  # at the first request: it imports pyarrow and deltalake

    try:
        return {"error": "", **read(Lake(usecase), load(usecase))}
    except StoreUnavailable:
        log.exception("%s can't be shown", usecase)
        return {"error": UNREADABLE}
    except EvergreenError as error:
        return {"error": str(error)}
    except Exception as error:  # of whatever kind: the other use cases are still shown
        log.exception("%s can't be shown", usecase)
        return {"error": f"The page failed ({type(error).__name__}); the api-server's log says more."}
