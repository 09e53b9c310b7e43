"""The verdicts: a challenger is judged, and its attempt recorded in `attempts`, before anything is promoted.

The judging itself is `include.judge.judge`, which reads nothing. Whether there is a champion to beat is
known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from include.errors import NotPublished, TrainingOutdated
from include.judge.checks import LEAKAGE_CHECKS
from include.judge.context import Check
from include.judge.custom_checks import custom_checks
from include.judge.evidence import Evidence
from include.judge.judge import FORCED, Verdict, checks_of, judge
from include.promote import ledger
from include.spec import UseCase
from include.storage.lake import Lake, Row
from include.storage.schemas import ATTEMPTS


def judge_and_record(lake: Lake, spec: UseCase, evaluation_key: str) -> Verdict:
    """Judge the evidence of an evaluation and record the verdict; a rerun returns the recorded one.

    Raises
    ------
    NotPublished
        when there is no such evaluation.
    TrainingOutdated
        when the declaration has changed since, so that its gate isn't the one the challenger was trained for.
    """
    data = lake.get(evaluation_key)
    if data is None:
        where = f"{lake.uri}/{evaluation_key}"
        remedy = "run the training of that partition again, or clear `evaluate.measure` in Airflow"
        raise NotPublished(f"{spec.name}: evidence", found="no such object", where=where, remedy=remedy)
    evidence = Evidence.from_json(data)

    def verdict() -> Verdict:
        if evidence.spec != spec.digest:
            raise TrainingOutdated(
                f"{spec.name}/{evidence.partition}: evidence",
                required=f"of declaration {spec.digest[:12]}",
                found=evidence.spec[:12],
                remedy="the use case has changed since: train again",
            )
        champion = ledger.champion_to_beat(lake, evidence.partition, evidence.key) is not None
        return judge(evidence, spec.gate, champion=champion, custom=custom_checks(spec))

    row = record_attempt(lake, evidence, verdict)
    return Verdict(row["verdict"], row["sentence"], checks_of(row["checks"]))


def attempts(lake: Lake) -> list[Row]:
    """Return every verdict, oldest first."""
    return lake.rows("attempts", order=["recorded"])


def judged_trainings(lake: Lake) -> dict[str, str]:
    """Return the key of each training's newest attempt, by the training's partition."""
    rows = lake.rows("attempts", columns=["partition", "key"], order=["recorded"])
    return {row["partition"]: row["key"] for row in rows}


def failed_leakage_checks(checks: str) -> list[Check]:
    """Return the failed checks for leaks among the ``checks`` of a row of `attempts`."""
    return [c for c in checks_of(checks) if c.key in LEAKAGE_CHECKS and c.passed is False]


def declined_recipe(evidence: Evidence, switches: Sequence[Row], serving: str) -> str:
    """Return the recipe that a training proposed beside the serving one and that never served, or empty."""
    served = {row["model"] for row in switches}
    return evidence.recipe if evidence.recipe != serving and evidence.model not in served else ""


def attempt(lake: Lake, key: str) -> Row:
    """Return one verdict's row.

    Raises
    ------
    NotPublished
        when there is none.
    """
    for row in lake.rows("attempts", {"key": key}):
        return row
    raise NotPublished(
        f"attempt {key}",
        required="a recorded verdict",
        found="none",
        where=f"{lake.uri}/tables/attempts",
        remedy="run the training of that partition again, or clear `judge.decide` in Airflow",
    )


def record_attempt(lake: Lake, evidence: Evidence, verdict: Callable[[], Verdict]) -> Row:
    """Record the verdict on an attempt once; the same key again returns the first row.

    Parameters
    ----------
    verdict : returns the verdict; called again after a concurrent commit.
    """

    def decide_attempt(rows: list[Row]) -> list[Row] | Row:
        earlier = next((row for row in rows if row["key"] == evidence.key), None)
        if earlier is not None:
            return earlier
        return [_attempt_row(evidence, verdict(), len(rows) + 1)]

    return lake.append_compare_and_swap("attempts", ATTEMPTS, decide_attempt)


def _attempt_row(evidence: Evidence, verdict: Verdict, recorded: int) -> Row:
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
        "recorded": recorded,
    }


def record_forced(lake: Lake, row: Row, by: str, reason: str) -> Row:
    """Record once that a person overruled the gate on an attempt."""
    key = ledger.forced_key(row["key"])
    sentence = f"{FORCED} by {by}: {reason}; the gate said: {row['sentence']}"

    def decide_forced(rows: list[Row]) -> list[Row] | Row:
        earlier = next((earlier for earlier in rows if earlier["key"] == key), None)
        if earlier is not None:
            return earlier
        return [{**row, "key": key, "verdict": FORCED, "sentence": sentence, "recorded": len(rows) + 1}]

    return lake.append_compare_and_swap("attempts", ATTEMPTS, decide_forced)
