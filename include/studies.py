"""The commands that measure what the gate and the alarms are worth: they take a while, and act on nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from include import spec as specs
from include.options import AsJson, Debug, Page, UseCaseName, writable
from include.options import show as _show

if TYPE_CHECKING:
    from include.lake import Lake

studies = typer.Typer()


@studies.command()
def calibrate(
    usecase: UseCaseName,
    sequences: Annotated[int, typer.Option("--sequences", min=1, help="Of 20 attempts each.")] = 10_000,
    page: Page = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure how often the gate promotes noise, and which gains it sees; it takes minutes."""
    from include.calibrate.run import calibrate as measure
    from include.calibrate.run import text

    _study(measure, text, usecase, sequences, page, as_json)


@studies.command("calibrate-alarms")
def calibrate_alarms(
    usecase: UseCaseName,
    years: Annotated[int, typer.Option("--years", min=1, help="Made-up ones.")] = 20,
    page: Page = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure how often a column alarms without a fault, and how soon with one."""
    from include.calibrate.alarms import calibrate as measure
    from include.calibrate.alarms import text

    _study(measure, text, usecase, years, page, as_json)


def _study(
    measure: Callable[[Lake, specs.UseCase, int], tuple[dict[str, Any], str]],
    text: Callable[[dict[str, Any]], str],
    usecase: str,
    size: int,
    page: Path | None,
    as_json: bool,
) -> None:
    """Measure a use case, write the page where it is asked for, and print the numbers."""
    from include.lake import Lake

    writable(page)
    found, html = measure(Lake(usecase), specs.load(usecase), size)
    if page is not None:
        page.write_text(html)
    _show(found, text(found), as_json)
