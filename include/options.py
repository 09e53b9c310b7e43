"""What the commands have in common: their options' names, and how an answer is shown."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
UseCaseName = Annotated[str, typer.Argument(metavar="USECASE")]


def show(data: dict[str, Any], text: str, as_json: bool) -> None:
    """Print an answer as text, or as one JSON object."""
    typer.echo(json.dumps(data, indent=1, default=str) if as_json else text)
