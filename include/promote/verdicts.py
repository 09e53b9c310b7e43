"""Judge a challenger and record the verdict in the ledger `attempts`, before anything is promoted by it.

The judging itself is `include.judge.judge`, which reads no ledger. This is beside the ledgers, since what it
needs to know, whether there is a champion to beat, and what it writes are there.
"""

from __future__ import annotations

from include.errors import NotPublished, TrainingOutdated
from include.judge.custom_checks import custom_checks
from include.judge.evidence import Evidence
from include.judge.judge import Verdict, checks_of, judge
from include.promote import ledger
from include.spec import UseCase
from include.storage.lake import Lake


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

    row = ledger.record_attempt(lake, evidence, verdict)
    return Verdict(row["verdict"], row["sentence"], checks_of(row["checks"]))
