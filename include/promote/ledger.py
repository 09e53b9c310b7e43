"""Ledgers of verdicts and of switches: both only grow, by compare-and-swap, so that nothing is lost.

Who serves a partition is the newest switch in effect by then; a later one takes effect from a later
partition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include.errors import NotPublished, StaleDecision
from include.judge.evidence import Evidence
from include.judge.judge import BLESSED, FORCED, NOT_BLESSED, Verdict
from include.models.outputs import Constant
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import ATTEMPTS, DEPLOYMENTS

Row = dict[str, Any]
Decide = Callable[[list[Row]], list[Row] | Row | None]
ROUNDS = 100  # each lost round means that somebody else's decision was written


def append_compare_and_swap(lake: Lake, table: str, schema: pa.Schema, decide: Decide) -> Row | None:
    """Append what ``decide`` makes of the ledger, in one commit.

    Parameters
    ----------
    decide : sees the ledger's rows, in no order, and gives the rows to append, or else a row that already
        says so, or None. It is asked again whenever somebody else was faster, so it does nothing but decide.

    Returns
    -------
    dict or None
        The first row that was appended, or what ``decide`` gave instead.

    Raises
    ------
    StaleDecision
        when others were faster a hundred times.
    """
    for _ in range(ROUNDS):
        version = lake.version(table)
        found = lake.read(table, version=version) if version >= 0 else None
        wanted = decide([] if found is None else found.to_pylist())
        if not isinstance(wanted, list):
            return wanted
        try:
            lake.append_at(table, pa.Table.from_pylist(wanted, schema), version)
        except StaleDecision:
            continue
        return wanted[0]
    raise StaleDecision(
        f"{lake.uri}/tables/{table}", required="a commit", found=f"{ROUNDS} faster ones", remedy="try again"
    )


PROMOTED, ROLLED_BACK = "promoted", "rolled back"  # the kinds of switch, beside FORCED
STEPPED_DOWN = "stepped down"  # of a champion that serves no more, until the next switch


@dataclass(frozen=True)
class Serving:
    """Who may serve a partition: rows of `deployments`, None where there is nobody.

    Parameters
    ----------
    champion : the newest switch in effect, unless its model stepped down.
    previous : the champion before it, another model, and none that was rolled back from or stepped down.
    baseline : the strongest baseline of the newest switch in effect.
    prior : the label's mean in the champion's training, or each class's share.
    down : the switch by which the champion stepped down.
    """

    champion: Row | None
    previous: Row | None
    baseline: Row | None
    prior: Constant | None
    down: Row | None = None


def switches(lake: Lake) -> list[Row]:
    """Return every row of `deployments`, oldest first."""
    return sorted(lake.rows("deployments"), key=_order)


def attempts(lake: Lake) -> list[Row]:
    """Return every verdict, oldest first."""
    return sorted(lake.rows("attempts"), key=lambda row: int(row["recorded"]))


def attempt(lake: Lake, key: str) -> Row:
    """Return one verdict's row, or say that there is none."""
    for row in lake.rows("attempts", {"key": key}):
        return row
    raise NotPublished(
        f"attempt {key}",
        required="a recorded verdict",
        found="none",
        where=f"{lake.uri}/tables/attempts",
        remedy="run judge for that training first",
    )


def serving(lake: Lake, partition: str) -> Serving:
    """Return who may serve a partition."""
    return serving_of(switches(lake), partition)


def serving_of(rows: Sequence[Row], partition: str) -> Serving:
    """Return who may serve a partition by the given `switches`."""
    rows = [row for row in rows if row["effective"] <= partition]
    line = succession(rows)
    baselines = [row for row in rows if row["role"] == "baseline"]
    down = line[-1] if line and line[-1]["kind"] == STEPPED_DOWN else None
    before = line[-2] if len(line) > 1 and line[-2]["kind"] != STEPPED_DOWN else None
    return Serving(
        champion=line[-1] if line and not down else None,
        previous=None if down else before,
        baseline=baselines[-1] if baselines else None,
        prior=_prior(line[-1]) if line else None,
        down=down,
    )


def vacancy(rows: Sequence[Row], partition: str) -> str:
    """Return why no champion serves a partition by the given `switches`, and what does.

    Empty where one does.
    """
    serving = serving_of(rows, partition)
    if serving.champion is not None:
        return ""
    why, instead = "no model was promoted yet", "a constant"
    if serving.down is not None:
        why = f"v{serving.down['version']} stepped down from {serving.down['effective']} on"
    if serving.baseline is not None:
        instead = f"baseline v{serving.baseline['version']}"
    return f"there is no champion: {why}, and {instead} serves instead"


def _prior(row: Row) -> Constant | None:
    shares = row.get("priors")  # a ledger of earlier code hasn't the column
    return tuple(json.loads(shares)) if shares else row["prior"]


def champion_to_beat(lake: Lake, partition: str, key: str = "") -> Row | None:
    """Return the champion that a training of ``partition`` has to beat, None when it would be the first.

    It is the newest, of those whose own evidence isn't newer than ``partition`` and that were there before
    the attempt ``key`` was itself promoted: so evaluating again, or an old week, finds the same one again.
    """
    rows = champions(switches(lake))
    own = [row["switch"] for row in rows if row["attempt"] in (key, forced_key(key))]
    rows = [row for row in rows if row["evidence"] <= partition and (not own or row["switch"] < own[0])]
    return rows[-1] if rows else None


def champions(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the role champion."""
    return [row for row in rows if row["role"] == "champion"]


def succession(rows: Sequence[Row]) -> list[Row]:
    """Return the champions, each with the one that it replaced before it, the live one last.

    A rollback ends the line after the one it goes back to, so a model that was rolled back from is nobody's
    fallback, and a second rollback goes further back.
    """
    line: list[Row] = []
    for row in champions(rows):
        models = [earlier["model"] for earlier in line]
        if row["kind"] == ROLLED_BACK and row["model"] in models:
            line = line[: models.index(row["model"])]
        elif models and models[-1] == row["model"]:
            line.pop()
        line.append(row)
    return line


def newest_evidence(rows: Sequence[Row]) -> str:
    """Return the newest partition that any champion was judged on, empty before the first."""
    return max((row["evidence"] for row in champions(rows)), default="")


def record_attempt(lake: Lake, evidence: Evidence, verdict: Callable[[int], Verdict]) -> Row:
    """Record the verdict on an attempt, once: the same key again returns the first row.

    Parameters
    ----------
    verdict : gives the verdict for the attempt's number, asked again when somebody else recorded first.
    """

    def decide(rows: list[Row]) -> list[Row] | Row:
        known = [row for row in rows if row["key"] == evidence.key]
        if known:
            return known[0]
        number = 1 + _since(rows, switches(lake))
        return [_attempt_row(evidence, verdict(number), number, len(rows) + 1)]

    return _sure(append_compare_and_swap(lake, "attempts", ATTEMPTS, decide))


def forced_key(key: str) -> str:
    """Return the key under which forcing an attempt is recorded, beside what the gate said."""
    return f"{key}+forced"


def was_forced(row: Row) -> bool:
    """Tell whether a switch is to a model that a person forced, then or before it was gone back to."""
    return str(row["attempt"]).endswith(forced_key(""))


def record_forced(lake: Lake, row: Row, by: str, reason: str) -> Row:
    """Record for good that a person overruled the gate on an attempt, once."""
    key, said = forced_key(row["key"]), row["sentence"]
    sentence = f"{FORCED} by {by}: {reason}; the gate said: {said}"

    def decide(rows: list[Row]) -> list[Row] | Row:
        known = [earlier for earlier in rows if earlier["key"] == key]
        if known:
            return known[0]
        return [{**row, "key": key, "verdict": FORCED, "sentence": sentence, "recorded": len(rows) + 1}]

    return _sure(append_compare_and_swap(lake, "attempts", ATTEMPTS, decide))


def _attempt_row(evidence: Evidence, verdict: Verdict, number: int, recorded: int) -> Row:
    return {
        "key": evidence.key,
        "partition": evidence.partition,
        "verdict": verdict.verdict,
        "sentence": verdict.sentence,
        "checks": verdict.checks_json(),
        "evidence": evidence.to_json(),
        "version": evidence.version,
        "model": evidence.model,
        "spec": evidence.spec,
        "data": evidence.data,
        "code": evidence.code,
        "attempt": number,
        "recorded": recorded,
    }


def record_switch(lake: Lake, decide: Callable[[list[Row]], list[Row] | Row | None]) -> Row | None:
    """Write one switch in one commit, and return its champion's row.

    ``decide`` sees the ledger and gives the new rows (without their number), a row that already says it, or
    None where nothing may be switched any more; it is asked again whenever somebody else switched first.
    """

    def numbered(rows: list[Row]) -> list[Row] | Row | None:
        wanted = decide(sorted(rows, key=_order))
        if not isinstance(wanted, list):
            return wanted
        number = 1 + max((row["switch"] for row in rows), default=0)
        champion_first = sorted(wanted, key=lambda row: row["role"] != "champion")
        return [{**row, "switch": number} for row in champion_first]

    return append_compare_and_swap(lake, "deployments", DEPLOYMENTS, numbered)


def next_unserved(lake: Lake, spec: UseCase, *partitions: str) -> str:
    """Return the partition after the newest of ``partitions`` and those already served; empty without any."""
    rows = lake.rows("partitions", {"product": "predictions"})
    served = [row["partition"] for row in rows if row["outcome"] == "published"]
    return spec.clock.shift(newest, 1) if (newest := max([*partitions, *served], default="")) else ""


def _sure(row: Row | None) -> Row:
    assert row is not None
    return row


def _since(recorded: Sequence[Row], rows: Sequence[Row]) -> int:
    """Count the attempts at replacing the live champion: those that were judged against it.

    What can't have promoted anything isn't counted: a verdict for want of evidence, and a backfilled training
    that is older than the champion's evidence. So a backfill of old weeks costs the next challenger nothing.
    """
    line = champions(rows)[-1:]
    model, evidence = (line[0]["model"], line[0]["evidence"]) if line else ("", "")
    return sum(
        row["verdict"] in (BLESSED, NOT_BLESSED)
        and row["partition"] >= evidence
        and json.loads(row["evidence"])["champion"] == model
        for row in recorded
    )


def _order(row: Row) -> tuple[int, str]:
    return int(row["switch"]), str(row["role"])
