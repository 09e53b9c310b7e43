"""Try a use case on its own data: ingest a past range into a lake of its own, and replay it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from include.cli.stages import Ingested, run_stage
from include.errors import PYTHON, NotPublished
from include.references import Ref
from include.replay.pipeline import Progress, Replay, replay
from include.replay.report import publish_page
from include.spec import UseCase
from include.storage.lake import Lake
from include.validate.pipeline import validate


@dataclass(frozen=True)
class TryResult:
    """The result of trying a use case.

    Parameters
    ----------
    page : the address of the replay's page.
    sentence : what the policies would have cost.
    not_published : a sentence for each partition of a source that was refused or unavailable.
    """

    replay: Replay
    page: str
    sentence: str
    not_published: tuple[str, ...]


def try_usecase(
    lake: Lake,
    spec: UseCase,
    first: str = "",
    until: str = "",
    *,
    now: datetime,
    progress: Progress,
    warn: Callable[[str], None],
) -> TryResult:
    """Ingest a range of partitions, and replay it under the built-in policies.

    No model registry is needed, because a replay keeps its own fits in the lake. What is ingested or fitted
    already is not done again.

    Parameters
    ----------
    first, until : partitions. Default: from ``schedule.start`` to the newest one with a decision.
    warn : receives a sentence for what is probably a mistake.

    Raises
    ------
    EvergreenError
        when the declaration has an error, no partition can be published, or the range has no training.
    """
    for problem in validate(spec):
        if problem.severity == "error":
            raise problem.error
        warn(problem.sentence)
    newest = spec.clock.newest(now)
    end = min(spec.end or newest, newest)
    partitions = spec.clock.keys(first or spec.schedule.start, until or end)
    refs = _ingest(lake, spec, partitions, now, progress)
    missing = tuple(
        f"{ref.partition}  {ref.source} {ref.outcome}: {ref.note}" for ref in refs if not ref.published
    )
    if len(missing) == len(refs):
        raise NotPublished(
            f"{spec.name}: try",
            required="a partition that can be published",
            found=f"none of {len(partitions)}; the first: {missing[0] if missing else 'no partition'}",
            where=" to ".join(partitions[:1] + partitions[-1:]),
            remedy="choose --from and --until so that the sources have these partitions, and check the "
            f"connections by `{PYTHON} -m include doctor`; `init --sample FILE --split FOLDER` writes a file "
            "for each day",
        )
    result = replay(lake, spec, (), "", until, progress=progress)
    return TryResult(result, publish_page(lake, result), conclusion(result), missing)


def _ingest(
    lake: Lake, spec: UseCase, partitions: list[str], now: datetime, progress: Progress
) -> list[Ingested]:
    total = sum(
        len(spec.partitions(name, partitions[0], partitions[-1])) for name in spec.sources if partitions
    )
    counts: Counter[str] = Counter()

    def report(ref: Ref) -> None:
        counts["ingested"] += 1
        progress("ingest", counts["ingested"], total)

    refs = run_stage("ingest", lake, spec, partitions, now=now, report=report)
    return [ref for ref in refs if isinstance(ref, Ingested)]


def conclusion(result: Replay) -> str:
    """Return in one sentence what serving as declared would have cost, beside the prior and the best."""
    declared = next(policy for policy in result.policies if policy.name == "declared")
    best = min(result.policies, key=result.loss)
    loss, prior = result.loss(declared), float(result.prior.sum() / result.rows.sum())
    saved = ""
    if prior > 0:
        side = "less" if loss <= prior else "more"
        saved = f", {abs(1 - loss / prior):.0%} {side} than the prior's {prior:.4g}"
    better = "" if best is declared else f"; the policy {best.name} would have lost {result.loss(best):.4g}"
    return (
        f"Served as declared, {result.spec.name} would have lost {loss:.4g} ({result.spec.gate.objective}) "
        f"a row over {len(result.partitions)} partitions{saved}{better}."
    )
