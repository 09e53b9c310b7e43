"""What the alarms are worth, measured: ``python -m benchmarks.calibration alarms USECASE``.

It takes a while, and acts on nothing: it reads the lake, and stores a page in it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.calibration import alarms as of_alarms
from include import spec as specs
from include.cli.options import AsJson, Page, UseCaseName, print_result, require_writable
from include.errors import EvergreenError
from include.storage.lake import Lake

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def calibration() -> None:
    """Keep the measurement's name a part of the command."""


@app.command()
def alarms(
    usecase: UseCaseName,
    years: Annotated[int, typer.Option("--years", min=1, help="Made-up ones.")] = 20,
    page: Page = None,
    as_json: AsJson = False,
) -> None:
    """Measure how often a column alarms without a fault, and how soon with one."""
    require_writable(page)
    numbers, html = of_alarms.calibrate(Lake(usecase), specs.load(usecase), years)
    if page is not None:
        page.write_text(html)
    print_result(numbers, of_alarms.text(numbers), as_json)


def main() -> None:
    """Run a command; an error of ours is one line and no traceback."""
    try:
        app()
    except EvergreenError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
