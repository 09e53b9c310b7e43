"""The read-only commands: performance, the history page, the replay, gauges for Prometheus, contracts."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from include import spec as specs
from include.cli.options import (
    AllOrOne,
    AsJson,
    Debug,
    Page,
    UseCaseName,
    on_terminal,
    print_result,
    require_writable,
)
from include.errors import SpecError
from include.reports.text import text_table

inspection = typer.Typer()
SHOWN = 5  # partitions without data that a trial names
BAR_WIDTH = 40  # characters of a progress bar
ESTIMATE_COLUMNS = ("metric", "estimate", "error", "low", "high", "partitions")


@inspection.command()
def performance(
    usecase: UseCaseName,
    by: Annotated[str, typer.Option("--by", help="day, week, version, served_by or slice.")] = "week",
    as_of: Annotated[
        str, typer.Option("--as-of", help="Use the labels known on this partition, or now.")
    ] = "now",
    first: Annotated[
        str, typer.Option("--from", help="The first scored partition, such as 2013-03-01.")
    ] = "",
    last: Annotated[
        str, typer.Option("--until", help="The last scored partition. Default: the last 90.")
    ] = "",
    requests: Annotated[
        str,
        typer.Option(
            "--requests", help="Of online predictions, by the source that ingests the log of `serve`."
        ),
    ] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show realized performance by day, week, version, served_by or slice, with the labels known then or now.

    Partitions whose labels are pending are listed with an estimate and its error. No decision uses estimates.
    """
    from include.monitor.estimates import pending_estimates
    from include.monitor.performance import performance_by
    from include.storage.lake import Lake

    spec = specs.load(usecase)
    if requests:
        from include.serve.live_performance import live_performance

        online = live_performance(Lake(usecase), spec, requests)
        text = "\n".join(text_table(online, list(online[0]))) if online else "no request was ingested yet"
        print_result({"usecase": usecase, "rows": online}, text, as_json)
        return
    clock = spec.clock
    partitions = (clock.start_of(first) if first else "", clock.end_of(last) if last else "")
    until = None if as_of == "now" else clock.end_of(as_of)
    lake = Lake(usecase)
    rows = performance_by(lake, spec, by, as_of=until, first=partitions[0], last=partitions[1])
    pending = pending_estimates(lake, as_of=until, first=partitions[0], last=partitions[1])
    data = {"usecase": usecase, "by": by, "as_of": as_of, "rows": rows, "estimated": pending}
    no_labels = f"no labels of these partitions were known {'yet' if until is None else f'on {until}'}"
    text = "\n".join(text_table(rows, list(rows[0]))) if rows else no_labels
    print_result(data, text + pending_text(pending), as_json)


@inspection.command()
def history(
    usecase: UseCaseName,
    page: Page = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Sum up the last year: alarms by check and switches. --page draws them on one time axis."""
    from include.reports.history import draw_history, history_text
    from include.storage.lake import Lake

    require_writable(page)
    summary, html = draw_history(Lake(usecase), specs.load(usecase))
    if page is not None:
        page.write_text(html)
    print_result(summary, history_text(summary), as_json)


@inspection.command()
def replay(
    usecase: UseCaseName,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            "--policy",
            help="A YAML file with changes of schedule, training, gate or retraining; may be repeated.",
        ),
    ] = None,
    first: Annotated[
        str,
        typer.Option(
            "--from",
            help="The partition of the first training. "
            "Default: the first scheduled one by which training.test partitions have labels.",
        ),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", help="The last served partition. Default: the last one with labels.")
    ] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Replay past partitions, as known then, and compare what serving would have cost under each policy.

    The policies: declared (as production decides, had it begun with the first training of the range), never
    (the first model for ever), newest (the newest fit of the best candidate, without a gate), new-not-worse
    (as newest, if it isn't worse than what serves), and each --policy, which is decided as declared. Nothing
    is written that is used for serving. A replay that was killed goes on where it was.

    --json also lists under `losses` where a loss lies: by policy and partition the labeled rows, their mean
    loss, and the fit that served (null for the constant) and a canary beside it, each by its recipe and the
    partition of its training.
    """
    from include.replay.pipeline import replay as run_replay
    from include.replay.report import publish_page, replay_json, replay_text
    from include.storage.lake import Lake

    lake, spec = Lake(usecase), specs.load(usecase)
    clock = spec.clock
    keys = (clock.around(first)[1] if first else "", clock.around(until)[0] if until else "")
    result = run_replay(lake, spec, policy or (), *keys, progress=show_progress)
    page = publish_page(lake, result)
    print_result(replay_json(result), f"{replay_text(result)}\n\n{page}", as_json)


@inspection.command("try")
def try_command(
    usecase: UseCaseName,
    first: Annotated[
        str, typer.Option("--from", help="The first partition to ingest. Default: schedule.start.")
    ] = "",
    until: Annotated[
        str, typer.Option("--until", help="The last one. Default: schedule.end, or the newest.")
    ] = "",
    folder: Annotated[
        Path | None,
        typer.Option("--lake", help="A folder for its lake, to go on from later. Default: a temporary one."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Try a use case on its own past, without Airflow and servers: ingest, train, replay, and draw a page.

    The sources' connections must be set. The lake is a folder of its own, and nothing in it serves. The page
    compares what serving would have cost under each policy, see `replay`; on a desktop a browser opens it.
    """
    from include.cli.try_usecase import try_usecase
    from include.replay.report import replay_json, replay_text
    from include.storage.lake import Lake

    spec = specs.load(usecase)
    clock = spec.clock
    keys = (clock.around(first)[1] if first else "", clock.around(until)[0] if until else "")
    lake = Lake(usecase, str((folder or Path(tempfile.mkdtemp(prefix="evergreen-try-"))).absolute()))
    warn = partial(typer.echo, err=True)
    tried = try_usecase(lake, spec, *keys, now=datetime.now(UTC), progress=show_progress, warn=warn)
    for sentence in tried.not_published[:SHOWN]:
        warn(sentence)
    if len(tried.not_published) > SHOWN:
        warn(f"and {len(tried.not_published) - SHOWN} more; --json lists all")
    text = f"{replay_text(tried.replay)}\n\n{tried.page}\n{tried.sentence}"
    data = {"page": tried.page, "sentence": tried.sentence, "not_published": tried.not_published}
    print_result({**data, "lake": lake.uri, **replay_json(tried.replay)}, text, as_json)
    if on_terminal() and not as_json and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(tried.page)


def show_progress(task: str, completed: int, total: int) -> None:
    """Draw a progress bar on stderr: in place at each percent on a terminal, else a line at each tenth."""
    in_place = sys.stderr.isatty()
    steps = 100 if in_place else 10
    if steps * completed // total == steps * (completed - 1) // total:
        return
    filled = BAR_WIDTH * completed // total
    bar = "#" * filled + "-" * (BAR_WIDTH - filled)
    start = "\r" if in_place else ""
    end = completed == total or not in_place
    typer.echo(f"{start}{task:<20.20} [{bar}] {completed} of {total}", nl=end, err=True)


@inspection.command()
def metrics(
    usecase: AllOrOne = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the gauges that Prometheus scrapes, of the newest partitions, in its text format."""
    from include.ops.prometheus import HELP, exposition_text, scrape

    selected = [specs.load(usecase).name] if usecase else specs.names()
    samples = [sample for name in selected for sample in scrape(name)]
    text = exposition_text(samples, HELP).rstrip("\n")
    print_result({"samples": [vars(sample) for sample in samples]}, text, as_json)


@inspection.command()
def contract(
    usecase: UseCaseName,
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
    suite: Annotated[
        Path | None, typer.Option("--read", help="A suite's JSON to turn into the source's declaration.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print a source's contract as a suite of Great Expectations 1.x, or read a suite as a contract.

    With --read it prints what the suite says, as YAML for usecase.yaml. Each expectation that a declaration
    can't express is named on stderr, and then the exit code is 1.
    """
    from include.ingest.validation.suite import from_suite, to_suite

    spec = specs.load(usecase)
    if suite is None:
        data = to_suite(spec, source)
        print_result(data, json.dumps(data, indent=1, default=str), as_json)
        return
    result = from_suite(_read_json(suite), spec, source)
    data = {"declaration": result.declaration, "not_expressed": result.not_expressed}
    print_result(data, yaml.safe_dump(result.declaration, sort_keys=False).rstrip(), as_json)
    for sentence in result.not_expressed:
        typer.echo(f"not expressed: {sentence}", err=True)
    raise typer.Exit(bool(result.not_expressed))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(
            f"--read {file}",
            required="a JSON file",
            found=str(error),
            remedy="give a suite's file, as Great Expectations 1.x saves it",
        ) from None


def pending_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of the estimates, and the reason for each metric that can't be estimated."""
    if not rows:
        return ""
    estimated = [row for row in rows if row["estimate"] is not None]
    without: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["estimate"] is None:
            without.setdefault((row["partition"], row["reason"]), []).append(row["metric"])
    lines = [
        "\n",
        "estimated, because labels are pending; error: of past estimates, on partitions with labels",
    ]
    lines += text_table(estimated, ["partition", "version", *ESTIMATE_COLUMNS]) if estimated else []
    lines += [
        f"  {partition}  not estimated: {', '.join(metrics)}: {reason}"
        for (partition, reason), metrics in without.items()
    ]
    return "\n".join(lines)
