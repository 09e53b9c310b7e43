"""What the gate and the alarms are worth, measured: ``python -m benchmarks.calibration gate|alarms USECASE``.

Each takes a while, and acts on nothing: it reads the lake, and stores a page in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.calibration import alarms as of_alarms
from benchmarks.calibration import gate as of_gate
from include import spec as specs
from include.cli.options import AsJson, Page, UseCaseName, print_result, require_writable
from include.errors import EvergreenError
from include.storage.lake import Lake

Measure = Callable[[Lake, specs.UseCase, int], tuple[dict[str, Any], str]]

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def gate(
    usecase: UseCaseName,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="Of 20 attempts each.")] = 10_000,
    page: Page = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often the gate promotes noise, and which gains it sees; it takes minutes."""
    _study(of_gate.calibrate, of_gate.text, usecase, sequences, page, as_json)


@app.command()
def alarms(
    usecase: UseCaseName,
    years: Annotated[int, typer.Option("--years", min=1, help="Made-up ones.")] = 20,
    page: Page = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often a column alarms without a fault, and how soon with one."""
    _study(of_alarms.calibrate, of_alarms.text, usecase, years, page, as_json)


def _study(
    measure: Measure,
    text: Callable[[dict[str, Any]], str],
    usecase: str,
    size: int,
    page: Path | None,
    as_json: bool,
) -> None:
    """Measure a use case, write the page where it is asked for, and print the numbers."""
    require_writable(page)
    numbers, html = measure(Lake(usecase), specs.load(usecase), size)
    if page is not None:
        page.write_text(html)
    print_result(numbers, text(numbers), as_json)


def main() -> None:
    """Run a command; an error of ours is one line and no traceback."""
    try:
        app()
    except EvergreenError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
