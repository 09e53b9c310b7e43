"""The rollout task: advance, withdraw or roll back the models on trial, as their live labels decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evergreen.operators.base import EvergreenOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.models.registry import Registry


def _registry() -> Registry:
    from include.models.registry import Registry  # it imports MLflow, which is needed only after a switch

    return Registry()


class AdvanceOperator(EvergreenOperator):
    """Take the due step of each trial: promote or withdraw a challenger, or roll back a bad promotion.

    Also replaces a champion that a baseline beats. Reads the switches, predictions, shadows, walks and
    matured labels; writes the walks, and at most one switch a trial.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the switches; skip with the state of the trials if nothing was switched."""
        from include.rollout.pipeline import advance

        with self.open_partition(context) as (lake, spec, partition):
            ref = advance(lake, spec, partition, registry=_registry)
            if not ref.rows:
                self.skip_task(ref.note)
            self.add_event_metadata(context, "switches", lake, "switches", ref)
            return self.to_xcom(ref)
