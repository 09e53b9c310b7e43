"""What is asked of a source for one partition, and the patience with which it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from include.errors import PartitionRefused, SourceUnavailable, SpecError
from include.spec import UseCase
from include.spec.clock import day_of
from include.spec.source import Source
from include.storage.spill import Data

T = TypeVar("T")

# what was kept first stays a partition's content: a corrected source has to be asked again by name
FETCH_ANEW = "run the partition again with *Fetch anew* in the form, or `run ingest … --fetch-anew`"


class NotAvailableYet(SourceUnavailable):
    """The source answered, and has nothing for the partition yet; it did not fail."""


class TransientError(Exception):
    """One attempt failed in a way that may pass; its text is shown, so it holds no secret."""


@dataclass(frozen=True)
class Request:
    """One partition of one source.

    Parameters
    ----------
    subject : ``use case/source/partition``, as errors name it.
    day : the local date that the rows are about, ``YYYY-MM-DD``.
    known_at : when the partition's rows could first have been known (UTC).
    """

    subject: str
    source: Source
    partition: str
    day: str
    known_at: datetime

    def filled(self, template: str) -> str:
        """Return a path with ``{day}`` and ``{partition}`` filled in.

        Nothing else is ever put into a path.
        """
        path = template.replace("{day}", self.day).replace("{partition}", self.partition)
        if "{" in path or "}" in path:
            raise SpecError(
                f"{self.subject}: path",
                required="{day} or {partition}",
                found=template,
                remedy="use one of these two",
            )
        return path

    def unavailable(self, found: str, where: str = "") -> SourceUnavailable:
        """Return the error of a source that did not answer."""
        remedy = "look at the source and its connection; the partition can be run again when it answers"
        return SourceUnavailable(self.subject, required="an answer", found=found, where=where, remedy=remedy)

    def nothing(self, where: str) -> NotAvailableYet:
        """Return the error of a source that has nothing for the partition yet."""
        remedy = "run the partition again when it is delivered"
        return NotAvailableYet(
            self.subject, required="the partition's data", found="nothing yet", where=where, remedy=remedy
        )

    def too_large(self, where: str) -> PartitionRefused:
        """Return the error of a part that is larger than the spec admits."""
        return PartitionRefused(
            self.subject,
            required=f"at most {self.source.fetch.max_bytes} bytes, packed and unpacked",
            found="more",
            where=where,
            remedy="see whether the source sends what it should; if so raise fetch.max_bytes in the spec",
        )


Part = tuple[str, Data]
Fetcher = Callable[[Request], Iterator[Part]]


def request(spec: UseCase, source: str, partition: str, revision: int = 0) -> Request:
    """Return what is asked of a source for a partition; a later revision is named in errors."""
    declared = spec.sources[source]
    return Request(
        subject=f"{spec.name}/{source}/{partition}" + (f", revision {revision}" if revision else ""),
        source=declared,
        partition=partition,
        day=(day_of(partition) + timedelta(days=declared.offset)).isoformat(),
        known_at=spec.clock.local(partition, declared.available_at),
    )


def with_retries(asked: Request, attempt: Callable[[], T], where: str) -> T:
    """Return what an attempt returns; while it is `Transient`, try again with exponential backoff and jitter.

    Raises
    ------
    SourceUnavailable
        after ``fetch.attempts`` attempts.
    """
    fetch = asked.source.fetch
    retrying = Retrying(
        stop=stop_after_attempt(fetch.attempts),
        wait=wait_exponential_jitter(multiplier=fetch.wait, max=60.0, jitter=fetch.wait),
        retry=retry_if_exception_type(TransientError),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except TransientError as error:
        raise asked.unavailable(f"{error}, {fetch.attempts} times", where) from None
