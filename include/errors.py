"""Every error names its subject, what was required, what was found, where, and the remedy.

EvergreenError
├── SpecError              a use case's declaration can't be used
├── PartitionError         a key that its clock doesn't produce, or none at all
├── SourceUnavailable      a source did not answer, or has nothing yet: worth another try
│   └── CircuitOpen        it failed so often that it isn't asked for a while
├── PartitionRefused       what a source gave breaks the contract: another try won't help
├── NotPublished           a stage needs a partition that no one published
├── InsufficientData       there are too few partitions to say anything yet
├── MissingMetric          the gate asks for a figure that the evaluation doesn't have
├── ModelError             a stored model can't be loaded or isn't what the ledger says
├── StoreUnavailable       the lake can't be read or written now: worth another try
├── BackupError            a backup isn't whole, or what it would go to or be restored to isn't fit for it
├── StaleDecision          somebody else decided first: decide again
└── SettingError           a setting that says where or as whom is missing or wrong
"""

from __future__ import annotations


class EvergreenError(Exception):
    """The sentence a person reads first.

    Parameters
    ----------
    subject : what this is about, as ``weekly_sales/shops/2024-03-04``.
    required, found : both sides of the disagreement.
    where : a path, URI or key to look at.
    remedy : what the reader can do now.
    """

    def __init__(
        self, subject: str, *, required: str = "", found: str = "", where: str = "", remedy: str = ""
    ) -> None:
        self.subject, self.required, self.found = subject, required, found
        self.where, self.remedy = where, remedy
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """Return the whole message in one line."""
        parts = [
            f"required {self.required}" if self.required else "",
            f"found {self.found}" if self.found else "",
        ]
        text = ", ".join(part for part in parts if part)
        text = f"{self.subject}: {text}" if text else self.subject
        text += f" ({self.where})" if self.where else ""
        return f"{text}; {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling between processes with the fields intact."""
        return _rebuild, (type(self), self.subject, self.required, self.found, self.where, self.remedy)


def _rebuild(
    kind: type[EvergreenError], subject: str, required: str, found: str, where: str, remedy: str
) -> EvergreenError:
    return kind(subject, required=required, found=found, where=where, remedy=remedy)


class SpecError(EvergreenError):
    """A use case's declaration can't be used."""


class PartitionError(EvergreenError):
    """A key that its clock doesn't produce, or none at all."""


class SourceUnavailable(EvergreenError):
    """A source did not answer, or has nothing yet; another try may help."""


class CircuitOpen(SourceUnavailable):
    """A source failed so often that it isn't asked again for a while."""


class PartitionRefused(EvergreenError):
    """What a source gave breaks its contract; another try at the same bytes won't help."""


class NotPublished(EvergreenError):
    """A stage needs a partition that no one has published."""


class InsufficientData(EvergreenError):
    """There are too few partitions to say anything; that passes with time."""


class MissingMetric(EvergreenError):
    """The gate asks for a figure that the evaluation doesn't have."""


class ModelError(EvergreenError):
    """A stored model can't be loaded, or isn't what the ledger says."""


class StoreUnavailable(EvergreenError):
    """The lake can't be read or written now; another try may help."""


class BackupError(EvergreenError):
    """A backup isn't whole, or the place it would go to or be restored to isn't fit for it."""


class StaleDecision(EvergreenError):
    """Somebody else switched first; read the ledger and decide again."""


class SettingError(EvergreenError):
    """A setting that says where, or as whom, is missing or wrong."""
