"""Format a use case's status as plain text for a terminal, the widest parts last."""

from __future__ import annotations

from collections.abc import Iterator

from include.errors import PYTHON
from include.ops.status import stale_lines
from include.promote.ledger import kind_text
from include.reports.text import text_table
from include.storage.lake import Row

LISTED = 10  # partitions that are listed one by one


def status_text(status: Row) -> str:
    """Return a use case's status as lines of text."""
    if not status["partitions"]:
        return f"{status['usecase']}: nothing in the lake yet ({status['lake']})"
    sections = (_partitions, _champion, _attempts, _performance, _findings, _stale, _withdrawn)
    return "\n".join(
        [
            f"{status['usecase']}  ({status['lake']})",
            *(line for section in sections for line in section(status)),
        ]
    )


def _partitions(status: Row) -> Iterator[str]:
    yield f"\npartitions ({status['partitions']})"
    outcomes = ("published", "refused", "unavailable")
    yield from text_table(
        status["products"], ["product", "first", "last", *outcomes, "rows", "quarantined", "duplicates"]
    )
    missing = status["not_published"]
    if missing:
        older = len(missing) - LISTED
        yield "\nnot published" + (f" (the last {LISTED} of {len(missing)})" if older > 0 else "")
        yield from (f"  {row['outcome']}: {row['note']}" for row in missing[-LISTED:])
    if status["quarantine"]:
        yield "\nmost frequent reasons for quarantine"
        yield from text_table(status["quarantine"], ["rows", "source", "column", "rule"])


def _champion(status: Row) -> Iterator[str]:
    champion = status["champion"]
    if champion is None:
        yield f"\n{status['why_no_champion']}"
    else:
        by = f" by {champion['by']}" if champion["by"] else ""
        recipe = f"{champion['recipe']}, " if champion["recipe"] else ""
        yield (
            f"\nchampion v{champion['version']} ({recipe}{champion['model']}) since partition "
            f"{champion['effective_from']}, "
            f"{kind_text(champion['kind'])}{by}{', originally forced' if champion['forced'] else ''}"
        )
        yield f"  {champion['reason']}"
        previous = champion["previous"]
        yield (
            f"  previous: v{previous['version']} since {previous['effective_from']}"
            if previous
            else "  previous: none"
        )
    if status["served_by"]:
        yield "  served so far: " + ", ".join(
            f"{rows:,} rows by {step}" for step, rows in status["served_by"].items()
        )


def _attempts(status: Row) -> Iterator[str]:
    yield from (f"  on trial: {trial}" for trial in status["trials"])
    if waiting := status["waiting"]:
        yield (
            f"\nwaits for approval: v{waiting['version']} of partition {waiting['partition']}, "
            f"{waiting['key'][:8]}"
        )
        yield f"  answer in Airflow, or: {PYTHON} -m include approve {status['usecase']} --by … --reason …"
    if status["attempts"]:
        yield "\nlast attempts"
        for row in status["attempts"]:
            yield f"  {row['partition']}  v{row['version']}  {row['key'][:8]}  {row['sentence']}"
            if row["outcome"]:
                yield f"    {row['outcome']}"


def _performance(status: Row) -> Iterator[str]:
    partitions = status["performance"]["partitions"]
    if partitions:
        mean = {"partition": "mean", **status["performance"]["mean"]}
        yield f"\nrealized performance, last {len(partitions)} partitions with labels (all metrics: --json)"
        rows = [*({"partition": partition, **values} for partition, values in partitions.items()), mean]
        yield from text_table(rows, ["partition", *status["performance"]["judged"]])


def _findings(status: Row) -> Iterator[str]:
    findings = status["findings"]
    if findings["partition"]:
        alarms, checks = findings["alarms"], findings["checks"]
        counts = f"{len(alarms)} alarm{'s' * (len(alarms) != 1)} in {checks} check{'s' * (checks != 1)}"
        yield f"\nmonitored {findings['partition']}: {counts}"
        yield from (f"  {row['check']} {row['subject']}: {row['note']}" for row in alarms)
    if findings["decision"]:
        decision = findings["decision"]
        yield f"  decision of {decision['partition']}: {decision['decision']}; {decision['reason']}"


def _stale(status: Row) -> Iterator[str]:
    if status["stale"]:
        yield f"\nstale partitions ({len(status['stale'])}): run them again to bring them up to date"
        yield from (f"  {line}" for line in stale_lines(status["stale"]))


def _withdrawn(status: Row) -> Iterator[str]:
    if status["withdrawn"]:
        yield "\nwithdrawn"
        for row in status["withdrawn"][-LISTED:]:
            yield f"  {row['partition']} by {row['by']} on {row['at']:%Y-%m-%d}: {row['reason']}"
