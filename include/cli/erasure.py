"""The command that erases a person's rows for good."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated

import typer

from include import spec as specs
from include.cli.lifecycle import By, Reason
from include.cli.options import AsJson, Debug, UseCaseName, on_terminal, print_result
from include.environment import setting
from include.errors import SpecError

erasure = typer.Typer()


@erasure.command()
def erase(
    usecase: UseCaseName,
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            help="A column of a source and the person's value, as customer=4711. Of several, all must hold.",
        ),
    ],
    by: By,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Erase a person's rows from everything that is stored, and prove it by a search of every byte.

    It prints what would go, and asks; without a terminal and --yes nothing is erased. It can't be undone. The
    exit code is 1 if nothing was erased, or if the key's text is left somewhere or a file can't be read; each
    is then named. docs/how-to/erase-a-person.md says what goes, what stays, and what to do afterwards.
    """
    from include.ops.backup import ARTIFACTS, open_address
    from include.ops.backup_store import ADDRESS_SETTING, lock_store, open_store
    from include.ops.erase import erase as erase_rows
    from include.ops.erase import plan_erasure
    from include.storage.lake import Lake

    lake, spec = Lake(usecase), specs.load(usecase)
    plan = plan_erasure(lake, spec, _values(key))
    if not yes:
        if as_json or not on_terminal():
            print_result(
                plan.plain(), "\n".join([*plan.lines, "nothing was erased; --yes erases this"]), as_json
            )
            raise typer.Exit(1)
        typer.echo("\n".join(plan.lines))
        typer.confirm("Erase all this for good?", abort=True)
    with ExitStack() as locks:
        if setting(ADDRESS_SETTING, ""):  # a backup would copy what is about to go
            locks.enter_context(lock_store(open_store(), "exclusive"))
        address = setting(ARTIFACTS, "")
        artifacts = open_address(address) if address else None
        result = erase_rows(lake, spec, plan, by, reason, now=datetime.now(UTC), artifacts=artifacts)
    print_result(result.plain(), "\n".join(result.lines), as_json)
    raise typer.Exit(bool(result.remaining or result.unreadable))


def _values(pairs: list[str]) -> dict[str, str]:
    """Return the values by column; the error doesn't repeat them."""
    values = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
    if len(values) < len(pairs) or not all("=" in pair for pair in pairs):
        raise SpecError(
            "erase --key",
            required="column=value, each column once",
            found="something else",
            remedy="give --key once for each column, as --key customer=4711",
        )
    return values
