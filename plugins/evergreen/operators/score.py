"""Score: every row of the night gets a prediction, by the first rung of the ladder that can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evergreen.operators.base import EvergreenOperator, carry_champion, connect, night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.lake import Lake
    from include.refs import Ref
    from include.spec import UseCase


class ScoreOperator(EvergreenOperator):
    """Predict the night's rows and publish them in one commit.

    Reads the validated nights of the lookback, the ledger and the model in the lake; writes predictions and
    their profiles. Nights of the lookback that nobody has tried to ingest yet are ingested first, so the
    order of a backfill can't matter, and one that was unavailable is tried once more. A night of several
    parts was ingested by their plan; where a part is missing, this task scores the whole night itself.

    :param parts: what the tasks of the night's parts handed on; None where one task scores the night.
    """

    template_fields = ("parts",)

    def __init__(self, *, parts: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the night's predictions."""
        from include.score import parts
        from include.score.run import score

        lake, spec = self.open()
        with self.one_try():
            night = night_of(context)
            carry_champion(lake, night)

            def whole() -> Ref:
                _settle(self, lake, spec, night)
                return score(lake, spec, night)

            if self.parts is None and spec.scoring.shards == 1:
                return self.handed(whole())
            return self.handed(parts.publish(lake, spec, night, list(self.parts or ()), whole))


class PlanPartsOperator(EvergreenOperator):
    """Decide once what the parts of a night read and who serves them, after the lookback is ingested.

    Reads what scoring reads; writes the plan. Returns one piece for each part, none of a night that has
    predictions already.
    """

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return the plan's key and the number of each part."""
        from include.score.plan import plan

        lake, spec = self.open()
        with self.one_try():
            night = night_of(context)
            carry_champion(lake, night)
            _settle(self, lake, spec, night)
            made = plan(lake, spec, night)
        self.log.info("%s", made.note)
        shares = [f"{number + 1} of {made.rows}" for number in range(made.rows)]
        return [{"plan": made.uri, "number": n, "share": share} for n, share in enumerate(shares)]


class ScorePartOperator(EvergreenOperator):
    """Predict one part of a night's rows and write them aside, where nobody reads them but `predict`.

    :param plan: the plan's key in the lake.
    :param number: which part, from 0.
    :param share: the same for a person, as ``1 of 4``.
    """

    template_fields = ("plan", "number", "share")

    def __init__(self, *, plan: str, number: int, share: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan, self.number, self.share = plan, number, share

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of what was written aside."""
        from include.score.parts import score_part

        lake, spec = self.open()
        with self.one_try():
            carry_champion(lake, night_of(context))
            return self.handed(score_part(lake, spec, self.plan, int(self.number)))


def _settle(task: EvergreenOperator, lake: Lake, spec: UseCase, night: str) -> None:
    from include.ingest.settle import settle

    for outcome in settle(lake, spec, night, connect):
        task.log.info("%s", outcome.note)
