"""Operators of the ingest stage: for one partition of a source, and for a range of partitions."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.base import EvergreenOperator, connect
from evergreen.run_note import CLIPPED, LOADED, loaded_text
from include.errors import SourceUnavailable
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestOperator(EvergreenOperator):
    """Fetch, validate and publish one partition of a source.

    Reads the source. Writes its raw data, quarantine, validated rows, profiles and row in ``partitions``. A
    partition that breaks the contract fails the task. Until the scoring deadline an unavailable source is
    retried; the task is deferred meanwhile and occupies no worker. After the deadline, or for a past
    partition, the task fails and the partition continues without the source.

    :param source: its name in the declaration.
    """

    template_fields = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Return a reference to the published rows."""
        from include.ingest.pipeline import ingest

        with self.open_partition(context) as (lake, spec, partition):
            if not spec.partitions(self.source, partition, partition):
                start = spec.sources[self.source].start or spec.schedule.start
                end = f" to {spec.end}" if spec.end else ""
                note = f"{self.source} is declared from {start} on{end}: nothing to ingest for {partition}"
                return self.to_xcom(Ref(self.source, partition, note=note))
            now = datetime.now(UTC)
            refetch = bool(context["params"].get("refetch"))
            (outcome,) = ingest(lake, spec, self.source, [partition], connect, refetch=refetch, now=now)
            try:
                outcome.raise_for_outcome()
            except SourceUnavailable as error:
                self.retry_before_deadline(spec, partition)
                raise AirflowFailException(str(error)) from error
            table = f"validated_{self.source}"
            ref = Ref(f"{lake.uri}/tables/{table}", partition, outcome.digest, outcome.rows, outcome.note)
            self.add_event_metadata(context, self.source, lake, table, ref)
            return self.to_xcom(ref)


class PlanRangeOperator(EvergreenOperator):
    """Split the form's range of partitions by source and month, for one mapped task each.

    A range that ends in the future is clipped at the newest partition.
    """

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Return the arguments of each mapped task: source, first and last partition."""
        from include.spec.partition import last_of_range
        from include.storage.schedule import require_schedule

        (first, last), ranges = (context["params"][name] for name in ("first", "last")), []
        with self.refusals_noted(context), self.open_use_case() as (lake, spec):
            require_schedule(lake, spec)
            final = last_of_range(spec, first, last, datetime.now(UTC))
            if spec.clock.after(final) <= spec.clock.end_of(last):
                context["ti"].xcom_push(CLIPPED, f"Clipped at {final}, the newest partition.")
            for source in spec.sources:
                partitions = spec.partitions(source, first, final)
                for _, group in groupby(partitions, key=lambda partition: partition[:7]):
                    month = list(group)
                    ranges.append({"source": source, "first": month[0], "last": month[-1]})
            if not ranges:
                raise AirflowFailException(
                    f"{self.usecase}: expected a source with partitions from {first} to {final}, but found "
                    "that all are declared to start later; choose a later range, or change `sources.X.start`"
                )
            return ranges


class IngestRangeOperator(EvergreenOperator):
    """Backfill a range of one source's partitions in one task, with the functions of the daily run.

    :param source: its name in the declaration.
    :param first: the range's first partition.
    :param last: its last partition.
    """

    template_fields = ("source", "first", "last")

    def __init__(self, *, source: str, first: str, last: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source, self.first, self.last = source, first, last

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a reference to the range; fail if the source failed or no partition was published."""
        with self.refusals_noted(context):
            return self._load(context)

    def _load(self, context: Context) -> dict[str, Any]:
        from include.ingest.connectors.request import NotAvailableYet
        from include.ingest.pipeline import ingest

        with self.open_use_case() as (lake, spec):
            partitions = spec.partitions(self.source, self.first, self.last)
            outcomes = ingest(lake, spec, self.source, partitions, connect, now=datetime.now(UTC))
            for outcome in outcomes:
                if outcome.outcome != "published":
                    self.log.warning("%s", outcome.note)
                source_failed = isinstance(outcome.error, SourceUnavailable)
                if source_failed and not isinstance(outcome.error, NotAvailableYet):
                    outcome.raise_for_outcome()  # the retry skips the partitions that are published already
        counts = Counter(outcome.outcome for outcome in outcomes)
        if outcomes and not counts["published"]:
            raise AirflowFailException(outcomes[0].note)
        loaded = {"source": self.source, "first": self.first, "last": self.last, "counts": dict(counts)}
        context["ti"].xcom_push(LOADED, loaded)
        rows = sum(outcome.rows for outcome in outcomes)
        table = f"{lake.uri}/tables/validated_{self.source}"
        return self.to_xcom(Ref(table, f"{self.first}..{self.last}", rows=rows, note=loaded_text([loaded])))
