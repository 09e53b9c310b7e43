"""What the commands have in common: their options' names, and how an answer is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from include.errors import EvergreenError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
UseCaseName = Annotated[str, typer.Argument(metavar="USECASE")]
Page = Annotated[Path | None, typer.Option("--page", help="Write the page there too.")]


def print_result(data: dict[str, Any], text: str, as_json: bool) -> None:
    """Print an answer as text, or as one JSON object."""
    typer.echo(json.dumps(data, indent=1, default=str) if as_json else text)


def require_writable(page: Path | None) -> None:
    """Refuse a page that can't be written, before the work is done."""
    if page is not None and not page.parent.is_dir():
        raise EvergreenError(f"--page {page}", required="a folder that is there", found=f"no {page.parent}")
