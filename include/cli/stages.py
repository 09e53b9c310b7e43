"""Run a stage without Airflow, through the same functions that Airflow's operators call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from include.environment import endpoint
from include.errors import EvergreenError, NotPublished, PartitionError
from include.references import Ref
from include.spec import UseCase
from include.spec.partition import check_partition
from include.storage.lake import Lake
from include.storage.schedule import require_schedule

log = logging.getLogger(__name__)

BATCH = 8  # partitions of a source that are fetched concurrently and published together


@dataclass(frozen=True)
class Ingested(Ref):
    """The result of ingesting a partition of one source.

    ``outcome`` is ``published``, ``refused`` or ``unavailable``.
    """

    source: str = ""
    outcome: str = ""

    @property
    def published(self) -> bool:
        """Whether the partition can be used."""
        return self.outcome == "published"


def run_stage(
    stage: str,
    lake: Lake,
    spec: UseCase,
    partitions: Sequence[str],
    *,
    now: datetime,
    refetch: bool = False,
    report: Callable[[Ref], None] = lambda ref: None,
) -> list[Ref]:
    """Run one stage for each of the partitions, oldest first.

    Parameters
    ----------
    now : the current time; the knowledge time of content that a source changed after its partition.
    refetch : only ``ingest``: fetch from the source even if the partition is stored.
    report : called with each result as soon as it is available.

    Raises
    ------
    PartitionError
        for a partition that isn't on the schedule or is still in the future, before anything runs.
    SpecError
        for a schedule other than the one that the lake was built for.
    """
    if stage not in STAGES:
        raise EvergreenError(
            f"stage {stage!r}", required=f"one of {', '.join(STAGES)}", remedy="name one of these"
        )
    if refetch and stage != "ingest":
        raise EvergreenError("--refetch", required="stage ingest", found=stage, remedy="remove the option")
    if not partitions:
        raise PartitionError(
            f"{spec.name}: {stage}",
            required="a partition of the schedule",
            remedy="give --partition, or --from and --until",
        )
    for partition in partitions:
        check_partition(spec, partition, now)
    require_schedule(lake, spec)
    run = partial(_ingest, refetch=True) if refetch else STAGES[stage]
    results = []
    for ref in run(lake, spec, partitions, now):
        report(ref)
        results.append(ref)
    return results


def _ingest(
    lake: Lake, spec: UseCase, partitions: Sequence[str], now: datetime, *, refetch: bool = False
) -> Iterator[Ref]:
    from include.ingest.pipeline import ingest

    by_source = {source: spec.partitions(source, partitions[0], partitions[-1]) for source in spec.sources}
    if not any(by_source.values()):
        raise PartitionError(
            f"{spec.name}: ingest",
            required=f"a partition from {spec.schedule.start} to {spec.schedule.end or 'today'}",
            found=" to ".join(dict.fromkeys((partitions[0], partitions[-1]))),
            remedy="give --partition, or --from and --until, within the schedule and its sources' starts",
        )
    for source, keys in by_source.items():
        table = f"{lake.uri}/tables/validated_{source}"
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            for result in ingest(lake, spec, source, batch, endpoint, refetch=refetch, now=now):
                yield Ingested(
                    table, result.partition, result.digest, result.rows, result.note, source, result.outcome
                )


def _score(lake: Lake, spec: UseCase, partitions: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.ingest.late_sources import refresh_lookback
    from include.score.pipeline import score

    without_rows = []
    for partition in partitions:
        for outcome in refresh_lookback(lake, spec, partition, endpoint):
            if outcome.error:
                log.warning("%s", outcome.note)
        try:
            yield score(lake, spec, partition)
        except NotPublished as error:  # the others are scored, as by their own runs in Airflow
            if len(partitions) == 1:
                raise
            without_rows.append(partition)
            yield Ref(f"{lake.uri}/tables/predictions", partition, note=str(error))
    if without_rows:
        raise NotPublished(
            f"{spec.name}: score",
            required="rows to score on each partition",
            found=f"none on {len(without_rows)} of {len(partitions)}, the first of them {without_rows[0]}",
            remedy="all others were scored; ingest the missing ones, then score them again",
        )


def _monitor(lake: Lake, spec: UseCase, partitions: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.monitor.pipeline import monitor

    yield from (monitor(lake, spec, partition) for partition in partitions)


def _rollout(lake: Lake, spec: UseCase, partitions: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.models.registry import Registry
    from include.promote.ledger import served_partitions
    from include.rollout.pipeline import advance, not_newest_text

    newest = max(served_partitions(lake), default="")
    due = [key for key in partitions if key >= newest] or partitions[-1:]
    if skipped := len(partitions) - len(due):
        text = "%s: rollout skips %d of %d partitions: %s"
        log.warning(text, spec.name, skipped, len(partitions), not_newest_text(newest))
    yield from (advance(lake, spec, partition, registry=Registry) for partition in due)


def _train(lake: Lake, spec: UseCase, partitions: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.evaluate.pipeline import evaluate
    from include.judge.evidence import attempt_key_of
    from include.models.registry import Registry
    from include.promote.promotion import promote
    from include.promote.verdicts import judge_and_record
    from include.reports.verdict import draw_blocked, draw_verdict
    from include.train.pipeline import train

    registry = Registry()
    for partition in partitions:
        trained = train(lake, spec, partition, registry=registry)
        yield trained
        evidence = evaluate(lake, spec, partition, trained.id, registry=registry)
        verdict = judge_and_record(lake, spec, evidence.id)
        attempt = attempt_key_of(evidence.id)
        draw_verdict(lake, spec, attempt, registry)
        yield Ref(attempt, partition, note=verdict.sentence)
        promotion = promote(lake, spec, attempt, registry=registry)
        if promotion.switch is None:
            draw_blocked(lake, spec, attempt, registry)
        else:
            yield promotion.switch


STAGES: dict[str, Callable[[Lake, UseCase, Sequence[str], datetime], Iterator[Ref]]] = {
    "ingest": _ingest,
    "score": _score,
    "monitor": _monitor,
    "rollout": _rollout,
    "train": _train,
}
