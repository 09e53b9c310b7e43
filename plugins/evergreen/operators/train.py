"""The tasks of a training: train, evaluate, ablate, judge, promote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evergreen import lineage
from evergreen.links import MlflowLink, OverviewLink, VerdictLink, description_links
from evergreen.operators.base import EvergreenOperator, add_log_fields
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context


class TrainOperator(EvergreenOperator):
    """Fit every recipe on what is known, and register the fit of the recipe with the best walk as challenger.

    Reads features and labels as known on the run's partition; writes fits, walks, an MLflow run, a model
    version and the reference profile. A rerun with the same data, declaration and partition returns the
    existing run.
    """

    operator_extra_links = (OverviewLink(), MlflowLink())

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the training run."""
        from include.models.registry import Registry
        from include.train.pipeline import train

        with self.open_partition(context) as (lake, spec, partition):
            ref = train(lake, spec, partition, registry=Registry())
        if lineage.is_enabled():
            self.published.append(lineage.describe_model(lake, list(spec.sources), ref))
        return self.to_xcom(ref)


class EvaluateOperator(EvergreenOperator):
    """Measure the recipes' walks on the same test rows, and the challenger's fit, and store that as evidence.

    :param run: the training run's reference.
    """

    template_fields = ("run",)

    def __init__(self, *, run: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run = run

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the evidence."""
        from include.evaluate.pipeline import evaluate
        from include.models.registry import Registry

        with self.open_partition(context) as (lake, spec, partition):
            return self.to_xcom(evaluate(lake, spec, partition, self.run["id"], registry=Registry()))


class AblateOperator(EvergreenOperator):
    """Measure the gain of each group of features: fit the run's recipe again without it.

    Reads features, labels and the partition's training run, and writes the gains with their bounds into it.
    """

    operator_extra_links = (OverviewLink(), MlflowLink())

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the training run."""
        from include.errors import InsufficientData
        from include.evaluate.ablation import ablate
        from include.models.registry import Registry

        with self.open_partition(context) as (lake, spec, partition):
            try:
                ablation = ablate(lake, spec, partition, registry=Registry())
            except InsufficientData as error:
                self.skip_task(str(error))
        self.log.info("%s", ablation.text())
        best = ablation.groups[0]
        note = f"{best.name} has the largest gain: {best.gain:+.5f} [{best.low:+.5f}, {best.high:+.5f}]"
        return self.to_xcom(Ref(ablation.run, ablation.partition, rows=ablation.rows, note=note))


class JudgeOperator(EvergreenOperator):
    """Judge the evidence and record the verdict; a refusal is an outcome, not an error.

    Writes the verdict, its page, and the cards of the model and its data.

    :param evidence: the evidence's reference.
    """

    operator_extra_links = (OverviewLink(), VerdictLink())
    template_fields = ("evidence",)

    def __init__(self, *, evidence: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evidence = evidence

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the verdict: its attempt's key, and the sentence."""
        from include.judge.evidence import attempt_key_of
        from include.models.registry import Registry
        from include.promote import verdicts
        from include.promote.verdicts import judge_and_record
        from include.reports.verdict import draw_verdict

        with self.open_partition(context) as (lake, spec, partition):
            attempt = attempt_key_of(self.evidence["id"])
            verdict = judge_and_record(lake, spec, self.evidence["id"])
            add_log_fields(model_version=str(verdicts.attempt(lake, attempt)["version"]))
            links = description_links(self.usecase, partition, attempt, self.dag_id, context["run_id"])
            draw_verdict(lake, spec, attempt, Registry(), links)
            return self.to_xcom(Ref(attempt, partition, note=verdict.sentence))


class PromoteOperator(EvergreenOperator):
    """Promote the challenger if its verdict and the approval allow it, by one commit.

    If they don't, its page says why, and without a champion its baseline is set to serve.

    :param verdict: the verdict's reference.
    """

    operator_extra_links = (OverviewLink(), VerdictLink())
    template_fields = ("verdict",)

    def __init__(self, *, verdict: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the switch, or skip with what blocks the promotion."""
        from include.models.registry import Registry
        from include.promote import verdicts
        from include.promote.promotion import promote
        from include.reports.verdict import draw_blocked

        with self.open_use_case() as (lake, spec):
            attempt, partition = self.verdict["id"], self.verdict["partition"]
            add_log_fields(model_version=str(verdicts.attempt(lake, attempt)["version"]))
            promotion = promote(lake, spec, attempt, registry=Registry())
            if promotion.switch is None:
                links = description_links(self.usecase, partition, attempt, self.dag_id, context["run_id"])
                draw_blocked(lake, spec, attempt, Registry(), links)
                self.skip_task(promotion.blocker)
            self.add_event_metadata(context, "switches", lake, "switches", promotion.switch)
            return self.to_xcom(promotion.switch)
