"""The exceptions of Evergreen: each states its subject, what was required and found, where, and a remedy."""

from __future__ import annotations

import sys
from pathlib import Path

# how a person in the repository's folder runs Python, for the commands in messages
PYTHON = ".venv/bin/python" if Path(sys.prefix) == Path(__file__).parents[1] / ".venv" else "python"


class EvergreenError(Exception):
    """An error with a one-sentence message that ends with a remedy.

    Parameters
    ----------
    subject : what the error is about, such as ``weekly_sales/shops/2024-03-04``.
    required, found : the expectation and what was there instead.
    where : a path, URI or key to look at.
    remedy : what the reader can do.
    """

    retryable = True  # False where a retry with the same input fails in the same way

    def __init__(
        self, subject: str, *, required: str = "", found: str = "", where: str = "", remedy: str = ""
    ) -> None:
        self.subject, self.required, self.found = subject, required, found
        self.where, self.remedy = where, remedy
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """Return the message in one line."""
        parts = [
            f"expected {self.required}" if self.required else "",
            f"found {self.found}" if self.found else "",
        ]
        text = ", but ".join(part for part in parts if part)
        text = f"{self.subject}: {text}" if text else self.subject
        text += f" ({self.where})" if self.where else ""
        return f"{text}; {self.remedy}" if self.remedy else text

    def problem_first(self) -> str:
        """Return the message with what was found and the remedy first, where only its beginning is shown."""
        required = "" if self.found else self.required
        text = str(EvergreenError(self.subject, required=required, found=self.found, remedy=self.remedy))
        text += f"; expected {self.required}" if required != self.required else ""
        return f"{text} ({self.where})" if self.where else text

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error is pickled between processes."""
        return _rebuild, (type(self), self.subject, self.required, self.found, self.where, self.remedy)


def _rebuild(
    kind: type[EvergreenError], subject: str, required: str, found: str, where: str, remedy: str
) -> EvergreenError:
    return kind(subject, required=required, found=found, where=where, remedy=remedy)


class SpecError(EvergreenError):
    """The declaration of a use case is invalid."""

    retryable = False


class PartitionError(EvergreenError):
    """A partition key is missing or not on the schedule."""

    retryable = False


class SourceUnavailable(EvergreenError):
    """A source did not answer or has no data yet."""


class CircuitOpen(SourceUnavailable):
    """The circuit breaker of a source is open after repeated failures."""


class PartitionRefused(EvergreenError):
    """A source's data violates its contract."""

    retryable = False


class StoredDataError(EvergreenError):
    """What is stored is missing or damaged; restoring it helps."""

    retryable = False


class NotPublished(EvergreenError):
    """A stage needs a partition that isn't published."""

    retryable = False


class InsufficientData(EvergreenError):
    """There are too few partitions, or labels in them, yet; more data resolves this."""

    retryable = False


class MissingMetric(EvergreenError):
    """A metric can't be computed from these rows, such as a ROC-AUC where all labels are equal."""

    retryable = False


class ModelError(EvergreenError):
    """A stored model can't be loaded, or differs from the ledger's record."""

    retryable = False


class TrainingOutdated(EvergreenError):
    """The declaration or the data changed since a training; only another training helps."""

    retryable = False


class StoreUnavailable(EvergreenError):
    """The lake can't be read or written now."""


class ClusterUnavailable(EvergreenError):
    """A Dask cluster doesn't answer, or has lost a worker in the middle of a fit."""


class MeasurementFailed(EvergreenError):
    """A check of the gate had no result because of the state of the machine."""


class BackupError(EvergreenError):
    """A backup is damaged, or its address or that of the restore can't be used."""

    retryable = False


class StaleDecision(EvergreenError):
    """Another process decided first; read the ledger and decide again."""


class ConcurrentCommit(StaleDecision):
    """Another process wrote to a table first; the same attempt may succeed when repeated."""


class SettingError(EvergreenError):
    """An environment setting (address, account, secret) is missing or invalid."""

    retryable = False


def unstable(subject: str, inputs: str, attempts: int) -> EvergreenError:
    """Return the error of a result whose inputs concurrent runs changed during each of some attempts."""
    return EvergreenError(
        subject,
        required=f"stable {inputs}",
        found=f"{inputs} that changed during each of {attempts} attempts",
        remedy="run it again when the concurrent runs have ended",
    )
