"""The command line: everything a partition does, and what a person asks of it, without Airflow.

Each command prints text, or one JSON object with ``--json``. It ends with 1 and one line where something is
wrong; ``--debug`` shows the traceback as well. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include import spec as specs
from include.cli.backups import rescue
from include.cli.demo_settings import adopt
from include.cli.inspect import looks
from include.cli.lifecycle import acts
from include.cli.options import AsJson, Debug, UseCaseName
from include.cli.options import print_result as _show
from include.errors import EvergreenError, PartitionError, SettingError
from include.references import Ref
from include.spec.clock import day_of

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
NO_LAKE = {"init", "validate", "schema", "--help"}  # what needs no setting
AllOrOne = Annotated[str | None, typer.Argument(metavar="[USECASE]", help="All of them, unless given.")]
Partition = Annotated[str | None, typer.Option("--partition", help="A partition, as 2013-03-01.")]


@app.command()
def status(usecase: AllOrOne = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Say how a use case stands: partitions, champion, attempts, performance, findings, what is stale."""
    from include.cli.status_text import status_text
    from include.ops.status import status as stand
    from include.storage.lake import Lake

    good, wrong = _specs(usecase)
    found = [stand(Lake(spec.name), spec) for spec in good]
    _show({"usecases": found, "wrong": wrong}, "\n\n".join([*map(status_text, found), *wrong]), as_json)
    raise typer.Exit(bool(wrong))


@app.command()
def validate(
    usecase: Annotated[
        str | None, typer.Argument(metavar="[USECASE|FOLDER]", help="All, unless given.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check declarations: keys, dates, SQL, estimators and expectations. Needs no data and no settings."""
    good, wrong = _readable(usecase)
    if good:
        from include.cli.validate import validate as find_problems

        wrong += [sentence for spec in good for sentence in find_problems(spec)]
    named = ", ".join(spec.name for spec in good)
    _show(
        {"usecases": [spec.name for spec in good], "wrong": wrong},
        "\n".join(wrong) or f"valid: {named}",
        as_json,
    )
    raise typer.Exit(bool(wrong))


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    into: Annotated[
        Path | None, typer.Option("--into", help="The parent folder, if not include/usecases.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Create a use case's folder from a template that works as it is."""
    from include.cli.scaffold import scaffold

    folder = scaffold(name, into) if into else scaffold(name)
    after = f"edit {folder}/usecase.yaml and features.sql, then run `python -m include validate {folder}`"
    if into:
        after += f"; set EVERGREEN_USECASES={into} so that Evergreen finds it"
    _show({"folder": str(folder)}, f"created {folder}\n{after}", as_json)


@app.command()
def schema(as_json: AsJson = False, debug: Debug = False) -> None:
    """Print the JSON Schema of usecase.yaml, which editors use to complete and check keys."""
    _show(specs.json_schema(), json.dumps(specs.json_schema(), indent=1, ensure_ascii=False), as_json)


@app.command()
def verify(
    usecase: AllOrOne = None, partition: Partition = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Recompute the stored digests of raw bytes, snapshots, partitions and models, and compare them.

    Nothing is fetched, fitted or scored again. The command ends with 1 if a digest differs. Stale partitions,
    which were computed from older inputs or code, are listed and are no error.
    """
    from include.ops.verify import verify as recompute
    from include.storage.lake import Lake

    if partition is not None:
        _day(partition)
    good, wrong = _specs(usecase)
    found = {spec.name: recompute(Lake(spec.name), spec, partition) for spec in good}
    lines = [line for name, v in found.items() for line in (*v.differences, *v.stale, f"{name}: {v.note}")]
    said = {"usecases": {name: one.plain() for name, one in found.items()}, "wrong": wrong}
    _show(said, "\n".join([*lines, *wrong]), as_json)
    raise typer.Exit(bool(wrong) or any(one.differences for one in found.values()))


@app.command()
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Look at what a run needs, from packages to sources, with a remedy for each lack."""
    from include.ops.doctor import run_checks

    found = list(run_checks())
    lines = [
        f"{'ok ' if one.ok else 'BAD'}  {one.name}: {one.found}" + ("" if one.ok else f"\n     {one.remedy}")
        for one in found
    ]
    _show({"checks": [vars(one) for one in found]}, "\n".join(lines), as_json)
    raise typer.Exit(not all(one.ok for one in found))


@app.command()
def ablate(
    usecase: UseCaseName, partition: Partition = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Say what each group of features brings: what is lost without it, on a training's test partitions."""
    from include.evaluate.ablation import ablate as leave_out
    from include.models.registry import Registry
    from include.storage.lake import Lake

    partition = _day(partition) if partition else None
    found = leave_out(Lake(usecase), specs.load(usecase), partition, registry=Registry())
    _show(found.plain(), found.text(), as_json)


@app.command()
def run(
    stage: Annotated[str, typer.Argument(metavar="ingest|score|monitor|rollout|train")],
    usecase: UseCaseName,
    partition: Partition = None,
    first: Annotated[str | None, typer.Option("--first", help="With --last: a range of partitions.")] = None,
    last: Annotated[str | None, typer.Option("--last")] = None,
    fetch_anew: Annotated[
        bool,
        typer.Option(
            "--fetch-anew", help="With ingest: fetch again what is kept; other content is a revision."
        ),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a stage for a partition, or for each partition of a range, as Airflow's operators do.

    A line is printed for each partition when it is complete. The command ends with 1 if any partition of a
    source was refused or unavailable: those lines, and how many there were, go to stderr. With --json all
    lines go to stderr, and the one object comes last.
    """
    from include.cli.stages import Ingested
    from include.cli.stages import run_stage as carry_out
    from include.storage.lake import Lake

    def report(ref: Ref) -> None:
        if isinstance(ref, Ingested):
            line = f"{ref.partition}  {ref.source} {ref.outcome}: {ref.note}"
            typer.echo(line, err=as_json or not ref.published)
        else:
            typer.echo(f"{ref.partition}  {ref.note}", err=as_json)

    spec, span = specs.load(usecase), (first or partition or "", last or first or partition or "")
    first, last = map(_day, span)
    partitions = [first] if first == last else spec.clock.keys(first, last)
    now = datetime.now(UTC)
    results = carry_out(stage, Lake(usecase), spec, partitions, now=now, fetch_anew=fetch_anew, report=report)
    if as_json:
        _show({"done": [ref.xcom() for ref in results]}, "", as_json)
    ingested = [ref for ref in results if isinstance(ref, Ingested)]
    if not all(ref.published for ref in ingested):
        counts = sorted(Counter(ref.outcome for ref in ingested).items())
        counted = ", ".join(f"{count} {outcome}" for outcome, count in counts)
        typer.echo(f"run {stage} {usecase}: of {len(ingested)} partitions {counted}", err=True)
        raise typer.Exit(1)


app.add_typer(acts)
app.add_typer(looks)
app.add_typer(rescue)


def _readable(usecase: str | None) -> tuple[list[specs.UseCase], list[str]]:
    """Return the declarations that can be read, and the sentences of the others."""
    if usecase is None:
        good, bad = specs.read_all()
        return good, [str(error) for error in bad]
    from include.spec.load import read

    try:
        path = Path(usecase)
        file = path / "usecase.yaml" if path.is_dir() else path
        return [read(file) if file.is_file() else specs.load(usecase)], []
    except EvergreenError as error:
        return [], [str(error)]


def _specs(usecase: str | None) -> tuple[list[specs.UseCase], list[str]]:
    """Return one declaration, which must be readable, or all that are and the sentences of the others."""
    return ([specs.load(usecase)], []) if usecase else _readable(None)


def _day(key: str) -> str:
    """Return a partition's key, or say which option gives one."""
    try:
        return day_of(key).isoformat()
    except PartitionError as error:
        raise PartitionError(
            error.subject,
            required=error.required,
            found=repr(key) if key else "none",
            remedy="give --partition, or to `run` --first and --last",
        ) from None


def main() -> None:
    """Run a command; an error of ours is one line and no traceback."""
    folder = Path(".evergreen").absolute()
    demo = adopt(folder) if sys.argv[1:] and NO_LAKE.isdisjoint(sys.argv) else "none"
    if demo == "up":
        typer.echo(f"using the demo in {folder}: this shell has no settings of its own", err=True)
    try:
        app()
    except EvergreenError as error:
        if "--debug" in sys.argv:
            raise
        text = str(error)
        if demo == "down" and isinstance(error, SettingError):
            text += f"; the demo in {folder} is down: `make demo` starts it"
        as_json = "--json" in sys.argv
        typer.echo(json.dumps({"error": text}) if as_json else text, err=not as_json)
        raise SystemExit(1) from None
