"""The request for one partition of a source, which connectors receive, with their errors and retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from include.errors import PartitionRefused, SourceUnavailable, SpecError
from include.spec.source import Source

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.spill import Data

PLACEHOLDERS = ("day", "hour", "minute", "partition")  # of paths
T = TypeVar("T")
Part = tuple[str, "Data"]  # a file, page or query result: its name and its bytes
Fetcher = Callable[["Request"], Iterator[Part]]

# The snapshot that was stored first stays a partition's content, so a corrected source has to be fetched
# again.
REFETCH = "run the partition again with *Refetch* in the form, or `run ingest … --refetch`"


class NotAvailableYet(SourceUnavailable):
    """The source answered that it has no data for the partition yet; it did not fail."""


class TransientError(Exception):
    """One attempt failed in a way that a retry may fix. Users see its text, so it must hold no secret."""


@dataclass(frozen=True)
class Request:
    """A request for one partition of one source.

    Parameters
    ----------
    subject : ``use case/source/partition``, for error messages.
    source : the source's declaration.
    day : the local date that the rows are about, ``YYYY-MM-DD``.
    hour, minute : the local time that the rows are about, two digits each.
    since, known_at : when the rows of the partition before, and of this one, were available at the earliest
        (UTC).
    """

    subject: str
    source: Source
    partition: str
    day: str
    hour: str
    minute: str
    since: datetime
    known_at: datetime

    def fill_path(self, template: str) -> str:
        """Return a path with the placeholders of `PLACEHOLDERS` replaced; no other one is allowed."""
        path = template
        for name in PLACEHOLDERS:
            path = path.replace(f"{{{name}}}", str(getattr(self, name)))
        if "{" in path or "}" in path:
            raise SpecError(
                f"{self.subject}: path",
                required=f"only {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}",
                found=template,
                remedy="correct the placeholder",
            )
        return path

    def unavailable(self, found: str, where: str = "") -> SourceUnavailable:
        """Return the error for a source that failed to answer."""
        remedy = "check the source and its connection, then run the partition again"
        return SourceUnavailable(self.subject, required="an answer", found=found, where=where, remedy=remedy)

    def not_available_yet(self, where: str) -> NotAvailableYet:
        """Return the error for a source that has no data for the partition yet."""
        remedy = "run the partition again after it is delivered"
        return NotAvailableYet(
            self.subject, required="the partition's data", found="nothing yet", where=where, remedy=remedy
        )

    def require_rows(self, rows: bool, where: str) -> None:
        """Raise `NotAvailableYet` if there are no rows: they may be late, unless the contract allows none."""
        if not rows and (self.source.contract.min_rows or self.source.sparse):
            raise self.not_available_yet(where)

    def too_many_files(self, where: str) -> PartitionRefused:
        """Return the error for more files than ``fetch.max_pages``."""
        return PartitionRefused(
            self.subject,
            required=f"at most {self.source.fetch.max_pages} files",
            found="more",
            where=where,
            remedy="check the path; if it is right, raise fetch.max_pages in usecase.yaml",
        )

    def too_large(self, where: str) -> PartitionRefused:
        """Return the error for a part that exceeds ``fetch.max_bytes``."""
        return PartitionRefused(
            self.subject,
            required=f"at most {self.source.fetch.max_bytes} bytes, compressed and uncompressed",
            found="more",
            where=where,
            remedy="check what the source delivers; if it is right, raise fetch.max_bytes in usecase.yaml",
        )


def request(spec: UseCase, source: str, partition: str, revision: int = 0) -> Request:
    """Return the request for a partition; errors name the revision if it isn't the first."""
    declared, clock = spec.sources[source], spec.clock
    if clock.sub_daily:
        time = clock.local_time(clock.shift(partition, declared.offset))
    else:
        time = clock.local_time(partition) + timedelta(days=declared.offset)
    return Request(
        subject=f"{spec.name}/{source}/{partition}" + (f", revision {revision}" if revision else ""),
        source=declared,
        partition=partition,
        day=f"{time:%Y-%m-%d}",
        hour=f"{time:%H}",
        minute=f"{time:%M}",
        since=clock.local(clock.before(partition), declared.available_at),
        known_at=clock.local(partition, declared.available_at),
    )


def with_retries(request: Request, attempt: Callable[[], T], where: str) -> T:
    """Return the result of an attempt; retry a `TransientError` with exponential backoff and jitter.

    Raises
    ------
    SourceUnavailable
        after ``fetch.attempts`` attempts.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    fetch = request.source.fetch
    retrying = Retrying(
        stop=stop_after_attempt(fetch.attempts),
        wait=wait_exponential_jitter(multiplier=fetch.wait, max=60.0, jitter=fetch.wait),
        retry=retry_if_exception_type(TransientError),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except TransientError as error:
        raise request.unavailable(f"{error}, {fetch.attempts} times", where) from None
