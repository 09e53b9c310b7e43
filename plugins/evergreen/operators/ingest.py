"""Ingest: one source's partition, or a range of partitions at once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.base import EvergreenOperator, connect, partition_of
from include.errors import SourceUnavailable
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

WAIT = timedelta(minutes=5)  # between two looks for a file that isn't there yet


class IngestOperator(EvergreenOperator):
    """Fetch, check and publish one source's partition; a bad one is refused and a missing one waited for.

    Reads the source; writes its raw bytes, quarantine, validated rows, profile and partition. Until the
    declared hour an unavailable source is looked for again, without holding a worker; after it, or for a
    partition that is past, the task fails and the partition goes on without the source.

    :param source: its name in the declaration.
    """

    template_fields = ("source",)

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def execute(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Return the reference of what was published."""
        from include.ingest.pipeline import ingest

        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            partition = partition_of(context, spec)
            spec.clock.moment(partition)
            if not spec.partitions(self.source, partition, partition):
                return self.to_xcom(
                    Ref(self.source, partition, note=f"{self.source} does not exist on {partition} yet")
                )
            now = datetime.now(UTC)
            anew = bool(context["params"].get("fetch_anew"))
            (outcome,) = ingest(lake, spec, self.source, [partition], connect, fetch_anew=anew, now=now)
            try:
                outcome.raise_for_outcome()
            except SourceUnavailable as error:
                if now + WAIT < spec.clock.local(partition, spec.scoring.deadline):
                    self._wait(now)
                raise AirflowFailException(str(error)) from error
        return self.to_xcom(
            Ref(
                f"{lake.uri}/tables/validated_{self.source}",
                partition,
                outcome.digest,
                outcome.rows,
                outcome.note,
            )
        )

    def _wait(self, now: datetime) -> None:
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        self.defer(trigger=DateTimeTrigger(moment=now + WAIT), method_name="execute")


class PlanRangeOperator(EvergreenOperator):
    """Cut the form's range into one piece a source and month, each the work of one mapped task."""

    def execute(self, context: Context) -> list[dict[str, str]]:
        """Return the pieces: source, first and last partition."""
        _, spec = self.open()
        form, pieces = context["params"], []
        with self.no_retry_on_final_errors():
            for source in spec.sources:
                partitions = spec.partitions(source, form["first"], form["last"])
                for _, month in groupby(partitions, key=lambda partition: partition[:7]):
                    inside = list(month)
                    pieces.append({"source": source, "first": inside[0], "last": inside[-1]})
        if not pieces:
            raise AirflowFailException(
                f"{self.usecase}: no partition lies between {form['first']} and {form['last']}; "
                f"the schedule has {spec.schedule.start} to {spec.schedule.end or 'today'}"
            )
        return pieces


class IngestRangeOperator(EvergreenOperator):
    """Load a past range of one source in one task, through the functions that a partition uses.

    :param source: its name in the declaration.
    :param first: the range's first partition.
    :param last: its last.
    """

    template_fields = ("source", "first", "last")

    def __init__(self, *, source: str, first: str, last: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source, self.first, self.last = source, first, last

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a reference to the range.

        Fail where the source failed, or no partition could be published.
        """
        from include.ingest.connectors.request import NotAvailableYet
        from include.ingest.pipeline import ingest

        lake, spec = self.open()
        partitions = spec.partitions(self.source, self.first, self.last)
        with self.no_retry_on_final_errors():
            found = ingest(lake, spec, self.source, partitions, connect, now=datetime.now(UTC))
        counts = Counter(outcome.outcome for outcome in found)
        for outcome in found:
            if outcome.outcome != "published":
                self.log.warning("%s", outcome.note)
            if isinstance(outcome.error, SourceUnavailable) and not isinstance(
                outcome.error, NotAvailableYet
            ):
                outcome.raise_for_outcome()  # the partitions that stand are cheap to pass over in the retry
        if found and not counts["published"]:
            raise AirflowFailException(found[0].note)
        note = f"{self.source} {self.first} to {self.last}: " + ", ".join(
            f"{n} {o}" for o, n in counts.items()
        )
        rows = sum(outcome.rows for outcome in found)
        table = f"{lake.uri}/tables/validated_{self.source}"
        return self.to_xcom(Ref(table, f"{self.first}..{self.last}", rows=rows, note=note))
