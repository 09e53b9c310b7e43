"""The command line: run the stages and the manual actions without Airflow, and inspect the results.

Each command prints text, or one JSON object with ``--json``. An error is printed as one line, and the exit
code is 1; ``--debug`` adds the traceback. Heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from include import spec as specs
from include.cli import options
from include.cli.backups import backups
from include.cli.demo_settings import use_demo_settings
from include.cli.erasure import erasure
from include.cli.export import exports
from include.cli.inspect import inspection
from include.cli.lifecycle import lifecycle
from include.cli.options import AllOrOne, AsJson, Debug, UseCaseName, on_terminal, print_result
from include.cli.serve import serving
from include.errors import PYTHON, EvergreenError, PartitionError, SettingError, SpecError
from include.references import Ref
from include.spec.clock import time_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.validate.problems import ReportedProblem

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# commands that need no settings, unless with --data
NO_LAKE = {"init", "validate", "schema", "contract", "--help"}
QUESTIONS = {
    "kind": "Kind of problem (binary, regression, multiclass)",
    "target": "Column to predict",
    "time": "Column with each row's date; if date and hour are in two, as date,hour",
    "key": "Columns that identify a row within a day, or an hour, separated by commas",
}
Partition = Annotated[str | None, typer.Option("--partition", help="A partition, such as 2013-03-01.")]


@app.command()
def status(usecase: AllOrOne = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show a use case's state: partitions, champion, attempts, performance, findings, stale partitions."""
    from include.cli.status_text import status_text
    from include.ops.status import status as read_status
    from include.storage.lake import Lake

    good, wrong = _specs(usecase)
    states = [read_status(Lake(spec.name), spec) for spec in good]
    text = "\n\n".join([*map(status_text, states), *wrong])
    print_result({"usecases": states, "wrong": wrong}, text, as_json)
    raise typer.Exit(bool(wrong))


@app.command()
def validate(
    usecase: Annotated[
        str | None, typer.Argument(metavar="[USECASE|FOLDER]", help="All, unless given.")
    ] = None,
    data: Annotated[
        bool,
        typer.Option(
            "--data",
            help="Also check the lake's newest partitions: stored rows under the contract, when they became "
            "known, features that read rows from after the decision or before the lookback, empty and "
            "constant features, labels that don't come, unreachable requirements. A column that reveals the "
            "label isn't looked for: the gate measures that in each training.",
        ),
    ] = False,
    partition: Annotated[
        str | None, typer.Option("--partition", help="With --data: this partition, not the newest three.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find mistakes in declarations, their SQL and, with --data, in stored partitions.

    Without --data it needs no data and no settings: keys, dates, paths, limits, estimators and their
    parameters, expectations, and the SQL, which also runs on generated rows that the contracts allow.
    Errors end with 1; warnings and hints don't. docs/reference/validate.md lists what is found.
    """
    from include.validate.problems import ReportedProblem

    good, bad = _readable(usecase)
    problems = [ReportedProblem(error) for error in bad]
    if not as_json:
        _print_problems("", problems)
    if partition is not None:
        data, partition = True, _partition_key(partition)
    if good:
        from include.storage.lake import Lake
        from include.validate.pipeline import validate as find_problems

        for spec in good:
            own = find_problems(spec, Lake(spec.name) if data else None, partition or "")
            if not as_json:
                _print_problems(spec.name, own)
            problems += own
    wrong = [one.sentence for one in problems if one.severity == "error"]
    if as_json:
        names = [spec.name for spec in good]
        print_result(
            {"usecases": names, "wrong": wrong, "problems": [one.plain() for one in problems]}, "", as_json
        )
    raise typer.Exit(bool(wrong))


def _print_problems(usecase: str, problems: Sequence[ReportedProblem]) -> None:
    """Print a use case's problems as text, errors first, as soon as it is validated."""
    wrong = [one.sentence for one in problems if one.severity == "error"]
    other = [one.sentence for one in problems if one.severity != "error"]
    lines = [*wrong, *other, *([f"valid: {usecase}"] if usecase and not wrong else [])]
    if lines:
        print_result({}, "\n".join(lines), as_json=False)


@app.command()
def init(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[str, typer.Argument(metavar="NAME")],
    sample: Annotated[
        Path | None, typer.Option("--sample", help="A file with rows: .csv, .parquet, or .jsonl.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="binary, regression or multiclass.")] = "",
    target: Annotated[str, typer.Option("--target", help="The sample's column to predict.")] = "",
    key: Annotated[
        str,
        typer.Option(
            "--key",
            help="The columns that identify a row within a day, or an hour, as store,item. Default: --time, "
            "if no two rows have the same.",
        ),
    ] = "",
    time: Annotated[
        str,
        typer.Option("--time", help="The column with each row's date, or its hour; of two, as day,hour."),
    ] = "",
    split: Annotated[
        Path | None,
        typer.Option(
            "--split", help="Also write the sample below this folder, as the CSV files of each day, or hour."
        ),
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="The parent folder, if not include/usecases.")
    ] = None,
    python: Annotated[
        bool,
        typer.Option("--python", help="With a working example of each kind of Python, and its test."),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Create a use case's folder from a sample of its data, or from a template that works as it is.

    With --sample, types, bounds, features and baselines are proposed from the file, each with a comment on
    how. On a terminal it asks for what isn't given.
    """
    from include.cli.scaffold import PYTHON_TEMPLATE, TEMPLATE, scaffold, scaffold_sample

    answers = {"kind": kind, "target": target, "time": time, "key": key}
    if python and sample is not None:
        remedy = "propose one from the sample, and copy from another one with --python what you need"
        raise SpecError("init", required="--python or --sample", found="both", remedy=remedy)
    if on_terminal() and not (as_json or python):
        from include.cli.sample import read_sample

        if sample is None:
            text = "A sample file (.csv, .parquet, .jsonl), or empty for the template"
            sample = Path(answer) if (answer := typer.prompt(text, default="", show_default=False)) else None
        if sample is not None:
            rows = read_sample(sample)
            typer.echo(f"Its columns: {', '.join(rows.columns)}")
            for option, question in QUESTIONS.items():
                default = None
                if option == "key":
                    rows = read_sample(sample, time=answers["time"])
                    default = rows.key_of_series(answers["time"]) or None
                answers[option] = answers[option] or typer.prompt(question, default=default)
            if split is None:
                text = "A folder to write one file for each day or hour to, or empty if there are such files"
                split = (
                    Path(answer) if (answer := typer.prompt(text, default="", show_default=False)) else None
                )
    if sample is None:
        if unused := [f"--{option}" for option, text in {**answers, "split": split}.items() if text]:
            remedy = "give --sample FILE, or leave them out"
            raise SpecError("init", required="--sample", found=", ".join(unused), remedy=remedy)
        folder = scaffold(name, into, PYTHON_TEMPLATE if python else TEMPLATE)
        after = (
            f"edit {folder}/usecase.yaml and features.sql, then run `{PYTHON} -m include validate {folder}`"
        )
        after += f" and `{PYTHON} -m pytest {folder}`" if python else ""
    else:
        folder = scaffold_sample(name, into, sample, split, **answers)
        after = f"read the comments in {folder}/usecase.yaml, and say where the files are:"
        host = (split or Path("/where/the/files/are")).absolute().as_uri()
        connection = json.dumps({"conn_type": "generic", "host": host})
        after += f"\n  export AIRFLOW_CONN_{name.upper()}={shlex.quote(connection)}"
        after += f"\nthen run `{PYTHON} -m include validate {name}` and `{PYTHON} -m include try {name}`"
    if into:
        after += f"; set EVERGREEN_USECASES={into} so that Evergreen finds it"
    print_result({"folder": str(folder)}, f"created {folder}\n{after}", as_json)


@app.command()
def schema(as_json: AsJson = False, debug: Debug = False) -> None:
    """Print the JSON Schema of usecase.yaml, which editors use to complete and check keys."""
    print_result(specs.json_schema(), json.dumps(specs.json_schema(), indent=1, ensure_ascii=False), as_json)


@app.command()
def verify(
    usecase: AllOrOne = None, partition: Partition = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Recompute the stored digests of raw bytes, snapshots, partitions and models, and compare them.

    Nothing is fetched, fitted or scored again. The exit code is 1 if a digest differs. Stale partitions,
    which were computed from older inputs or code, are listed but aren't an error; nor are those that were
    computed from rows that were erased since.
    """
    from include.ops.verify import verify as recompute_digests
    from include.storage.lake import Lake

    if partition is not None:
        _partition_key(partition)
    good, wrong = _specs(usecase)
    results = {spec.name: recompute_digests(Lake(spec.name), spec, partition) for spec in good}
    lines = [
        line
        for name, v in results.items()
        for line in (*v.differences, *v.stale, *v.erased, f"{name}: {v.note}")
    ]
    data = {"usecases": {name: result.plain() for name, result in results.items()}, "wrong": wrong}
    print_result(data, "\n".join([*lines, *wrong]), as_json)
    raise typer.Exit(bool(wrong) or any(result.differences for result in results.values()))


@app.command()
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Check what a run needs, from packages to sources, and print a remedy for each problem."""
    from include.ops.doctor import run_checks

    checks = list(run_checks())
    lines = [
        f"{'ok ' if check.ok else 'BAD'}  {check.name}: {check.detail}"
        + ("" if check.ok else f"\n     {check.remedy}")
        for check in checks
    ]
    print_result({"checks": [vars(check) for check in checks]}, "\n".join(lines), as_json)
    raise typer.Exit(not all(check.ok for check in checks))


@app.command()
def ablate(
    usecase: UseCaseName, partition: Partition = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Measure what each group of features contributes: the loss without it on the test partitions."""
    from include.evaluate.ablation import ablate as measure_ablation
    from include.models.registry import Registry
    from include.storage.lake import Lake

    partition = _partition_key(partition) if partition else None
    ablation = measure_ablation(Lake(usecase), specs.load(usecase), partition, registry=Registry())
    print_result(ablation.plain(), ablation.text(), as_json)


@app.command()
def run(
    stage: Annotated[str, typer.Argument(metavar="ingest|score|monitor|rollout|train")],
    usecase: UseCaseName,
    partition: Partition = None,
    first: Annotated[
        str | None, typer.Option("--from", help="With --until: the first partition of a range.")
    ] = None,
    last: Annotated[str | None, typer.Option("--until", help="The last partition of the range.")] = None,
    refetch: Annotated[
        bool,
        typer.Option(
            "--refetch",
            help="Only ingest: fetch stored partitions again; different content becomes a revision.",
        ),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a stage for one partition or a range of partitions, as Airflow's operators do.

    `score` first ingests what its lookback lacks. `train` also evaluates, judges and promotes, so it may
    change the model that serves.

    One line is printed as each partition completes. The exit code is 1 if any partition of a source was
    refused or unavailable. Those lines and a summary go to stderr. With --json all lines go to stderr, and
    stdout has one object at the end.
    """
    from include.cli.stages import Ingested, run_stage
    from include.storage.lake import Lake

    def report(ref: Ref) -> None:
        if isinstance(ref, Ingested):
            line = f"{ref.partition}  {ref.source} {ref.outcome}: {ref.note}"
            typer.echo(line, err=as_json or not ref.published)
        else:
            typer.echo(f"{ref.partition}  {ref.note}", err=as_json)

    options.refuse_both(("--partition", partition), ("--from and --until", first or last))
    spec, span = specs.load(usecase), (first or partition or "", last or first or partition or "")
    first, last = map(_partition_key, span)
    start, end = spec.clock.start_of(first), spec.clock.end_of(last)
    partitions = [start] if start == end else spec.clock.keys(start, end)
    now = datetime.now(UTC)
    results = run_stage(stage, Lake(usecase), spec, partitions, now=now, refetch=refetch, report=report)
    if as_json:
        print_result({"done": [ref.xcom() for ref in results]}, "", as_json)
    ingested = [ref for ref in results if isinstance(ref, Ingested)]
    if not all(ref.published for ref in ingested):
        counts = sorted(Counter(ref.outcome for ref in ingested).items())
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts)
        typer.echo(f"run {stage} {usecase}: of {len(ingested)} partitions {outcomes}", err=True)
        raise typer.Exit(1)


app.add_typer(lifecycle)
app.add_typer(erasure)
app.add_typer(inspection)
app.add_typer(backups)
app.add_typer(exports)
app.add_typer(serving)


def _readable(usecase: str | None) -> tuple[list[specs.UseCase], list[EvergreenError]]:
    """Return the declarations that can be read, and the errors of the others."""
    if usecase is None:
        good, bad = specs.read_all()
        return good, [*bad]
    from include.spec.load import read

    try:
        path = Path(usecase)
        is_path = os.path.lexists(path)  # False also for a name that is too long for a file
        file = path / "usecase.yaml" if is_path and path.is_dir() else path
        declared = read(file) if is_path and file.is_file() else specs.load(usecase)
    except EvergreenError as error:
        return [], [error]
    readable, errors = [declared], list[EvergreenError]()
    for horizon in declared.horizons:
        try:
            readable.append(read(declared.folder / "usecase.yaml", horizon=horizon))
        except EvergreenError as error:
            errors.append(error)
    return readable, errors


def _specs(usecase: str | None) -> tuple[list[specs.UseCase], list[str]]:
    """Return one declaration, which must be readable, or all readable ones with the others' messages."""
    if usecase:
        return [specs.load(usecase)], []
    good, bad = _readable(None)
    return good, [str(error) for error in bad]


def _partition_key(key: str) -> str:
    """Return a valid partition key or date; the error names the options of the command line."""
    try:
        time_of(key)
        return key
    except PartitionError as error:
        raise PartitionError(
            error.subject,
            required=error.required,
            found=repr(key) if key else "none",
            remedy="write it as 2013-03-01, or as 2013-03-01T0500Z where there are several a day"
            if key
            else "give --partition, or for `run` --from and --until",
        ) from None


def main() -> None:
    """Run a command; an `EvergreenError` is printed as one line without a traceback."""
    folder = Path(".evergreen").absolute()
    needs_lake = NO_LAKE.isdisjoint(sys.argv) or bool({"--data", "--partition"} & set(sys.argv))
    demo = use_demo_settings(folder) if sys.argv[1:] and needs_lake else "none"
    if demo == "up":
        typer.echo(f"using the demo in {folder}: this shell has no Evergreen settings", err=True)
    as_json = "--json" in sys.argv
    if as_json:
        options.keep_stdout_for_json()
    try:
        app()
    except EvergreenError as error:
        if "--debug" in sys.argv:
            raise
        text = str(error)
        if demo == "down" and isinstance(error, SettingError):
            text += f"; the demo in {folder} is down: `make demo` starts it"
        typer.echo(json.dumps({"error": text}) if as_json else text, file=options.result_file or sys.stderr)
        raise SystemExit(1) from None
