"""Score one partition: publish one prediction for each of its rows, in one atomic commit.

Scoring is idempotent. Once a partition has predictions, they stay: a rerun or a backfill never replaces them
by those of another model. A rerun predicts again with the same models; where the result differs because the
features changed, it goes to the table `restated`. The partition's row in `partitions` is written last and
marks it as complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import ModelError, NotPublished, SpecError
from include.features import point_in_time
from include.features.build import compute_features, known_too_late, remedy_too_late, rows_without_features
from include.models import outputs
from include.promote import ledger
from include.promote.ledger import Trial
from include.references import Ref
from include.score import fallback, predictions
from include.score.erasure import erase_predictions, republish_summary
from include.score.fallback import FallbackStep, StepPredictions, missing_sources
from include.score.predictions import ACTION, ServedPart
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.erasures import ERASURES_TABLE, read_erasures
from include.storage.lake import Lake, Row
from include.storage.store_errors import retry_commit

log = logging.getLogger(__name__)
SHADOWS = "shadows"  # the table of what models on trial predict


def score(lake: Lake, spec: UseCase, partition: str, *, requires_features: bool = True) -> Ref:
    """Publish a prediction for each of the partition's rows; rows that have one keep it.

    Parameters
    ----------
    requires_features : whether to fail if the features can't be computed. Otherwise a constant serves a
        partition that has no predictions yet.

    Returns
    -------
    Ref
        of the partition's predictions. Its note names the models that served, and says if the predictions
        would differ now, or if partitions before it were skipped. A partition whose spine was published
        without rows is published with no predictions.

    Raises
    ------
    NotPublished
        when no rows to score were known at the partition's decision time.
    SpecError
        when the features can't be computed.
    ConcurrentCommit
        when the first commit lost to other partitions a hundred times.
    """
    erasures_version = lake.version(ERASURES_TABLE)
    # read before the rows, so that a source published in between isn't "too late"
    states = source_states(lake, spec, partition)
    source_rows = rows_known_at(lake, spec, partition)
    missing = missing_sources(spec, partition, source_rows, states)
    with ThreadPoolExecutor(1) as background:
        # the features keep only one core busy
        digests = background.submit(inputs_digest, source_rows)
        run = ScoringRun(lake, spec, partition, states, missing, digests.result)
        try:
            rows = compute_features(spec, source_rows, [partition])
        except SpecError as error:
            if requires_features or lake.count("predictions", {"partition": partition}):
                raise
            ref = run.serve_constant(rows_without_features(spec, source_rows, partition), str(error))
        else:
            switches = ledger.switches(lake)  # late, so that few switches can come before the commit
            predict = partial(predict_rows, lake, spec, partition, rows, switches, missing)
            ref = run.publish(rows, switches, predict)
    return finish(lake, spec, partition, ref, erasures_version)


def finish(lake: Lake, spec: UseCase, partition: str, ref: Ref, erasures_version: int) -> Ref:
    """Erase from a published partition the rows that were erased meanwhile, and add skipped ones to the note.

    Parameters
    ----------
    erasures_version : of their ledger before the sources' rows were read.
    """
    while lake.version(ERASURES_TABLE) != erasures_version:
        erasures_version = lake.version(ERASURES_TABLE)
        erase_predictions(lake, spec, read_erasures(lake), [partition])
        republish_summary(lake, spec, partition, rows_known_at(lake, spec, partition))
    if skipped := _skipped_partitions(lake, spec, partition):
        log.warning("%s/%s: %s", spec.name, partition, skipped)
        ref = replace(ref, note=f"{ref.note}; {skipped}")
    return ref


def _skipped_partitions(lake: Lake, spec: UseCase, partition: str) -> str:
    """Return what a partition more than one step after the newest scored one skips, empty if it doesn't."""
    newest = max((key for key in ledger.served_partitions(lake) if key != partition), default=partition)
    skipped = spec.clock.keys(newest, partition)[1:-1]
    if not skipped:
        return ""
    span = " to ".join(dict.fromkeys((skipped[0], skipped[-1])))
    return f"skipped without predictions: {span}; a new switch takes effect only after {partition}"


class ScoringRun:
    """The scoring of one partition, and what the partition could know at its decision time.

    Parameters
    ----------
    partition : a key of the schedule.
    states : see `source_states`.
    missing : see `fallback.missing_sources`.
    inputs : returns the digest of each source's rows, once they are computed.
    """

    def __init__(
        self,
        lake: Lake,
        spec: UseCase,
        partition: str,
        states: Mapping[str, dict[str, object]],
        missing: Mapping[str, str],
        inputs: Callable[[], Mapping[str, str]],
    ) -> None:
        self.lake, self.spec, self.partition = lake, spec, partition
        self.source_states, self.missing, self._inputs = states, missing, inputs
        self._where = {"partition": partition}

    def publish(self, rows: pa.Table, switches: Sequence[Row], predict: Callable[[], pa.Table]) -> Ref:
        """Publish the partition's predictions and return their reference.

        Parameters
        ----------
        rows : the partition's features, sorted by key.
        switches : rows of the ledger, as those of ``predict``.
        predict : returns the first predictions of these rows.
        """
        if rows.num_rows == 0:
            return self._publish_empty()
        served = self.lake.read("predictions", self._where)
        if served is None or not served.num_rows:
            served, ref = self._publish_first(rows, predict())
        else:
            ref = self._complete(rows, served)
        if not set(self.missing) & set(self.spec.scoring.requires.get("champion", ())):
            # last, so that shadow scoring never delays the predictions that are served
            self._score_shadows(rows, served, ledger.trials_on(switches, self.spec, self.partition))
        champion = ledger.serving_of(switches, self.partition).champion
        if champion is not None and not ledger.was_judged(self.lake, champion):
            stand_in = f"{champion['recipe']} of v{champion['version']}"
            ref = replace(ref, note=f"{ref.note}; {stand_in} stands in for the champion that was promoted")
        return ref

    def serve_constant(self, rows: pa.Table, error: str) -> Ref:
        """Publish the constant for each row of a partition whose features can't be computed.

        Parameters
        ----------
        rows : from `rows_without_features`.
        """
        if rows.num_rows == 0:
            return self._publish_empty()
        step = fallback.fallback_chain(ledger.serving(self.lake, self.partition), self.spec, self.missing)[-1]
        values = fallback.predict_step(self.lake, self.spec, rows, step)
        new = predictions.build_predictions(self.spec, rows, StepPredictions(step, error, values))
        return self._publish_summary(*self._summarize(None, _commit_first(self.lake, self.partition, new)))

    def _publish_first(self, rows: pa.Table, new: pa.Table) -> tuple[pa.Table, Ref]:
        """Publish the partition's first predictions, or complete those that a concurrent run committed."""
        with ThreadPoolExecutor(1) as background:
            # computed during the commit; if it fails, the predictions stand and a rerun completes them
            summary = background.submit(self._summarize, rows, new)
            served = _commit_first(self.lake, self.partition, new)
            if served is new:
                return served, self._publish_summary(*summary.result())
        return served, self._complete(rows, served)

    def _complete(self, rows: pa.Table, published: pa.Table) -> Ref:
        """Complete a partition that has predictions: repair what a kill or damage left.

        Predictions that would differ now are published to `restated`; the served ones stay.
        """
        served = predictions.as_published(self.spec, spill.sort_rows(published, self.spec.key))
        served_digest = digest_table(served)
        parts = predictions.served_parts(self.spec, served, rows)
        same_rows = predictions.same_rows(self.spec, rows, served)
        recorded = self._recorded_row()
        recorded_digest = served_digest if recorded is None else recorded["digest"]
        try:
            current: pa.Table | None = self._predict_again(
                rows, parts, with_actions=ACTION in served.column_names
            )
        except ModelError:
            current = served if same_rows else None  # the same rows would get the same predictions
        if current is None:
            difference = "but the model that served can't be loaded"
        else:
            digest = digest_table(current)
            intact = same_rows and recorded_digest == served_digest
            if intact and predictions.nearly_equal(self.spec, served, current):
                digest = served_digest  # equal but for rounding
            if digest != served_digest and digest == recorded_digest:
                # the table was damaged; what is recorded was served
                self.lake.publish("predictions", current, self._where)
                served, served_digest = current, digest
            if digest == served_digest:
                self._clear_restated()
                return self._publish_summary(*self._summarize(rows, served))
            self._publish_restated(rows, current, parts)
            difference = "see the table restated"
        # read again: the run that served the partition may have completed it meanwhile
        if self._recorded_row() is None:
            features = rows if same_rows else None
            self._publish_summary(*self._summarize(features, served, inputs_are_known=same_rows))
        note = f"{predictions.serving_sentence(served)}; the predictions would differ now, {difference}"
        return self._reference(served_digest, served.num_rows, note)

    def _recorded_row(self) -> dict[str, Any] | None:
        where = {"product": "predictions", **self._where}
        return next(iter(self.lake.rows("partitions", where)), None)

    def _predict_again(self, rows: pa.Table, parts: Sequence[ServedPart], *, with_actions: bool) -> pa.Table:
        """Return what the models that served the partition predict for its rows now.

        Parameters
        ----------
        with_actions : whether the served predictions have actions, which they lack if there were no costs.
        """
        tables = []
        for part in parts:
            part_rows = spill.filter_rows(rows, part.mask)
            values = fallback.predict_step(self.lake, self.spec, part_rows, part.step)
            predicted = StepPredictions(part.step, part.reason, values)
            tables.append(predictions.build_predictions(self.spec, part_rows, predicted))
        joined = predictions.join_parts(self.spec, tables)
        return joined if with_actions else joined.select([n for n in joined.column_names if n != ACTION])

    def _publish_restated(self, rows: pa.Table, current: pa.Table, parts: Sequence[ServedPart]) -> None:
        """Publish to `restated` what each model that served predicts now."""
        for model, version in {part.step.model: part.step.version for part in parts}.items():
            mask = pc.equal(current["model"], model)
            values = outputs.from_columns(self.spec, spill.filter_rows(current, mask))
            predicted = StepPredictions(FallbackStep("restated", version, model), "", values)
            restated = predictions.build_predictions(self.spec, spill.filter_rows(rows, mask), predicted)
            self.lake.publish("restated", restated, {**self._where, "model": model})

    def _clear_restated(self) -> None:
        """Remove what was restated before, since the predictions are again what was served."""
        restated = self.lake.read("restated", self._where)
        if restated is not None and restated.num_rows:
            self.lake.publish("restated", restated.slice(0, 0), self._where)

    def _summarize(
        self, rows: pa.Table | None, served: pa.Table, *, inputs_are_known: bool = True
    ) -> tuple[pa.Table, pa.Table]:
        """Return the partition's profiles, and its row in `partitions`.

        Parameters
        ----------
        rows : the features that were scored; None if there were none, or if they are lost.
        inputs_are_known : whether the row names the inputs and the declaration, as those that were used.
        """
        inputs, declaration = (self._inputs(), self.spec.digest) if inputs_are_known else ({}, "")
        note = predictions.serving_sentence(served)
        with ThreadPoolExecutor(1) as background:
            row = background.submit(
                predictions.predictions_row,
                "predictions",
                self.partition,
                served,
                inputs,
                declaration,
                note,
            )
            return predictions.profiles_of(self.spec, self.partition, rows, served), row.result()

    def _publish_summary(self, profile_rows: pa.Table, partition_row: pa.Table) -> Ref:
        """Publish what `_summarize` returned; the row in `partitions` comes last."""
        products = profile_rows["product"].unique().to_pylist()
        self.lake.publish("profiles", profile_rows, {"product": products, **self._where})
        self.lake.publish("partitions", partition_row, {"product": "predictions", **self._where})
        (row,) = partition_row.select(["digest", "rows", "note"]).to_pylist()
        return self._reference(**row)

    def _publish_empty(self) -> Ref:
        """Publish a partition whose spine was published without rows; later rows don't change it."""
        state = self.source_states.get(self.spec.features.spine)
        recorded = self._recorded_row()
        spine_is_empty = state is not None and state["outcome"] == "published" and not state["rows"]
        recorded_as_empty = recorded is not None and not recorded["rows"]
        if not (spine_is_empty or recorded_as_empty) or self.lake.count("predictions", self._where):
            raise self._no_rows_error()
        empty = predictions.as_published(self.spec, None)
        note = f"0 rows: {self.spec.features.spine} was published without rows for this partition"
        row = predictions.predictions_row(
            "predictions", self.partition, empty, self._inputs(), self.spec.digest, note
        )
        self.lake.publish("partitions", row, {"product": "predictions", **self._where})
        return self._reference(digest_table(empty), 0, note)

    def _no_rows_error(self) -> NotPublished:
        spine, decision_time = self.spec.features.spine, self.spec.clock.decision_time(self.partition)
        state = self.source_states.get(spine)
        late = known_too_late(self.lake, self.spec, [self.partition])
        remedy = f"ingest {spine} for this partition, then score it again"
        if state is None:
            found = "nothing"
        elif late:
            found = f"{state['rows']:,} rows, not known before {late[self.partition]:%Y-%m-%d %H:%M} UTC"
            remedy = remedy_too_late(self.spec, self.partition)
        else:
            found = f"{state['outcome']} with {state['rows']:,} rows: {state['note']}"
        return NotPublished(
            f"{self.spec.name}/{spine}/{self.partition}",
            required=f"rows to score, known by {decision_time:%Y-%m-%d %H:%M} UTC",
            found=found,
            remedy=remedy,
        )

    def _reference(self, digest: str, rows: int, note: str) -> Ref:
        return Ref(f"{self.lake.uri}/tables/predictions", self.partition, digest, rows, note)

    # shadow scoring

    def _score_shadows(self, rows: pa.Table, served: pa.Table, trials: Sequence[Trial]) -> None:
        """Publish to `shadows` the predictions of each model on trial that doesn't serve every row.

        Idempotent: predictions that match their recorded digest are kept. What a killed run left without its
        row in `partitions`, or what was changed since, is computed again. A model that can't score the rows
        logs a warning and is skipped, so its trial lacks this partition.
        """
        steps = fallback.shadow_steps(trials, set(served["model"].unique().to_pylist()))
        if not steps:
            return
        recorded = self._recorded_shadows()
        tables = [] if recorded is None else [recorded]
        recorded_models = set() if recorded is None else set(recorded["model"].to_pylist())
        for step in steps:
            if step.model in recorded_models:
                continue
            try:
                values = fallback.predict_step(self.lake, self.spec, rows, step)
            except ModelError as error:
                subject = f"{self.spec.name}/{self.partition}"
                log.warning("%s: shadow scoring by v%s failed: %s", subject, step.version, error)
                continue
            predicted = StepPredictions(step, "", values)
            tables.append(predictions.build_predictions(self.spec, rows, predicted))
        if tables and (recorded is None or len(tables) > 1):
            self._publish_shadows(pa.concat_tables(tables))

    def _recorded_shadows(self) -> pa.Table | None:
        """Return the partition's shadow predictions, None unless they have the digest that was recorded."""
        for row in self.lake.rows("partitions", {"product": SHADOWS, **self._where}):
            published = self.lake.read(SHADOWS, self._where)
            shadows = self._sort_shadows(predictions.as_published(self.spec, published))
            if digest_table(shadows) == row["digest"]:
                return shadows
        return None

    def _publish_shadows(self, shadows: pa.Table) -> None:
        shadows = self._sort_shadows(shadows)
        self.lake.publish(SHADOWS, shadows, self._where)
        note = predictions.serving_sentence(shadows)
        row = predictions.predictions_row(
            SHADOWS, self.partition, shadows, self._inputs(), self.spec.digest, note
        )
        self.lake.publish("partitions", row, {"product": SHADOWS, **self._where})

    def _sort_shadows(self, rows: pa.Table) -> pa.Table:
        return spill.sort_rows(rows, ("model", *self.spec.key))


def predict_rows(
    lake: Lake,
    spec: UseCase,
    partition: str,
    rows: pa.Table,
    switches: Sequence[Row],
    missing: Mapping[str, str],
    *,
    skip_failing: bool = True,
) -> pa.Table:
    """Return a prediction for each row, by the first step of its fallback chain that can serve.

    Parameters
    ----------
    rows : features of the partition, at least one, sorted by key.
    switches : rows of the ledger.
    missing : see `fallback.missing_sources`.
    skip_failing : see `fallback.predict_with_fallback`.
    """
    steps = fallback.fallback_chain(ledger.serving_of(switches, partition), spec, missing)
    trials = ledger.trials_on(switches, spec, partition)
    tables = []
    for group, chain in fallback.split_canary(spec, rows, steps, trials, missing):
        predicted = fallback.predict_with_fallback(lake, spec, group, chain, skip_failing=skip_failing)
        tables.append(predictions.build_predictions(spec, group, predicted))
    return predictions.join_parts(spec, tables)


@retry_commit  # a concurrent run of another partition changes the table's version too
def _commit_first(lake: Lake, partition: str, new: pa.Table) -> pa.Table:
    """Commit a partition's first predictions, and return them or those that a concurrent run committed."""
    version = lake.version("predictions")
    published = lake.read("predictions", {"partition": partition})
    if published is not None and published.num_rows:
        return published
    lake.append_at("predictions", new, version)
    return new


def source_states(lake: Lake, spec: UseCase, partition: str) -> dict[str, dict[str, object]]:
    """Return the row of `partitions` of each source that has one."""
    rows = lake.rows("partitions", {"product": list(spec.sources), "partition": partition})
    return {row["product"]: row for row in rows}


def rows_known_at(
    lake: Lake,
    spec: UseCase,
    partition: str,
    versions: Mapping[str, int] | None = None,
    shard: tuple[int, int] | None = None,
) -> dict[str, pa.Table]:
    """Return each source's rows that were known at the partition's decision time, sorted.

    Parameters
    ----------
    versions, shard : see `point_in_time.read_sources`.
    """
    decision_time = pa.scalar(spec.clock.decision_time(partition), schemas.TIME)
    sources = point_in_time.read_sources(lake, spec, [partition], versions, shard)
    return {
        name: spill.filter_rows(rows, pc.less_equal(rows["known_at"], decision_time))
        for name, rows in sources.items()
    }


def inputs_digest(source_rows: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return the digest of each source's rows; rows that became known after the decision don't change it.

    Parameters
    ----------
    source_rows : see `rows_known_at`.
    """
    return {name: digest_table(rows) for name, rows in source_rows.items()}
