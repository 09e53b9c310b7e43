"""The stages as a caller without Airflow runs them, through the functions that Airflow's operators call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from include.environment import endpoint
from include.errors import EvergreenError, PartitionError
from include.lake import Lake
from include.refs import Ref
from include.spec import UseCase


def run(stage: str, lake: Lake, spec: UseCase, nights: Sequence[str], *, now: datetime) -> list[Ref]:
    """Run one stage for each of the nights, oldest first.

    Parameters
    ----------
    now : when this is asked; the knowledge time of content that a source changed after its night.
    """
    if stage not in STAGES:
        raise EvergreenError(f"stage {stage!r}", required=f"one of {', '.join(STAGES)}")
    if not nights:
        raise PartitionError(
            f"{spec.name}: {stage}",
            required="a night of the schedule",
            remedy="give --night, or --first and --last",
        )
    return list(STAGES[stage](lake, spec, nights, now))


def _ingest(lake: Lake, spec: UseCase, nights: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.ingest.run import ingest

    for source in spec.sources:
        wanted = spec.nights(source, nights[0], nights[-1])
        for one in ingest(lake, spec, source, wanted, endpoint, now=now) if wanted else ():
            yield Ref(f"{lake.uri}/tables/validated_{source}", one.night, one.digest, one.rows, one.note)


def _score(lake: Lake, spec: UseCase, nights: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.ingest.settle import settle
    from include.score.run import score

    for night in nights:
        settle(lake, spec, night, endpoint)
        yield score(lake, spec, night)


def _monitor(lake: Lake, spec: UseCase, nights: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.history.draw import redraw
    from include.monitor.run import monitor

    yield from (monitor(lake, spec, night) for night in nights)
    redraw(lake, spec, nights[-1])


def _rollout(lake: Lake, spec: UseCase, nights: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.registry import Registry
    from include.rollout.run import advance

    yield from (advance(lake, spec, night, registry=Registry) for night in nights)


def _train(lake: Lake, spec: UseCase, nights: Sequence[str], now: datetime) -> Iterator[Ref]:
    from include.evaluate.run import evaluate
    from include.promote.evidence import attempt_of
    from include.promote.run import decide, promote
    from include.registry import Registry
    from include.train.run import train
    from include.verdict.draw import draw

    registry = Registry()
    for night in nights:
        trained = train(lake, spec, night, registry=registry)
        yield trained
        evidence = evaluate(lake, spec, night, trained.uri, registry=registry)
        verdict = decide(lake, spec, evidence.uri)
        attempt = attempt_of(evidence.uri)
        draw(lake, spec, attempt, registry)
        yield Ref(f"{lake.uri}/tables/attempts", night, attempt, note=verdict.sentence)
        switched = promote(lake, spec, attempt, registry=registry)
        if switched is not None:
            yield switched


STAGES: dict[str, Callable[[Lake, UseCase, Sequence[str], datetime], Iterator[Ref]]] = {
    "ingest": _ingest,
    "score": _score,
    "monitor": _monitor,
    "rollout": _rollout,
    "train": _train,
}
