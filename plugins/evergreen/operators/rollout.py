"""Rollout: what live labels say of a model on trial, and the step that follows: forward, back, or neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evergreen.operators.base import EvergreenOperator, partition_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.models.registry import Registry


def _registry() -> Registry:
    from include.models.registry import Registry  # MLflow, which a partition without a switch does without

    return Registry()


class AdvanceOperator(EvergreenOperator):
    """Take the step of each trial: a shadow or canary forward or back, a wrong promotion back.

    Reads the switches, predictions, shadows and matured labels; writes at most one switch a trial.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the switches, or skip with how the trials stand where none was made."""
        from include.rollout.pipeline import advance

        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            ref = advance(lake, spec, partition_of(context, spec), registry=_registry)
        if not ref.rows:
            self.skip_task(ref.note)
        return self.to_xcom(ref)
