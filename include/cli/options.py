"""Options that several commands share, and how a result is printed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from include.errors import EvergreenError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
UseCaseName = Annotated[str, typer.Argument(metavar="USECASE", help="Its name, as `status` lists it.")]
AllOrOne = Annotated[str | None, typer.Argument(metavar="[USECASE]", help="Default: all use cases.")]
result_file: TextIO | None = None  # where JSON goes if stdout doesn't; None: to stdout
Page = Annotated[Path | None, typer.Option("--page", help="Also write the page to this file.")]


def print_result(data: dict[str, Any], text: str, as_json: bool) -> None:
    """Print a result as text, or as one JSON object."""
    typer.echo(json.dumps(data, indent=1, default=str) if as_json else text, file=result_file)


def keep_stdout_for_json() -> None:
    """Send to stderr whatever else this process prints, such as the use case's own Python."""
    global result_file
    result_file, sys.stdout = sys.stdout, sys.stderr


def on_terminal() -> bool:
    """Return whether a person can answer questions."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def refuse_both(first: tuple[str, str | None], second: tuple[str, str | None]) -> None:
    """Refuse two options, by name and value, of which only one can be followed."""
    (name, value), (other, other_value) = first, second
    if value and other_value:
        raise EvergreenError(
            f"{name} {value}",
            required=f"either {name} or {other}",
            found=f"{other} {other_value} as well",
            remedy="leave one of them out",
        )


def require_writable(file: Path | None, option: str = "--page") -> None:
    """Refuse a file that can't be written, before the work starts."""
    if file is None:
        return
    is_new = not os.path.lexists(file)
    try:
        file.open("ab").close()
        if is_new:
            file.unlink()
    except (OSError, ValueError) as error:
        raise EvergreenError(
            f"{option} {file}",
            required="an existing folder, and the name of a file in it that can be written",
            found=getattr(error, "strerror", None) or str(error),
            remedy="give the path of another file",
        ) from None
