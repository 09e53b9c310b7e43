"""What became of one night of one source; a bad night is an outcome, and an error only to who asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from include.errors import EvergreenError, PartitionRefused, SourceUnavailable


@dataclass(frozen=True)
class Outcome:
    """One night of one source.

    Parameters
    ----------
    product : the source.
    outcome : ``published``, ``refused`` or ``unavailable``.
    rows, quarantined, duplicates : published, set aside, and dropped as exact duplicates.
    digest : of the published rows, empty where there are none.
    note : the sentence a person reads.
    """

    product: str
    night: str
    outcome: str
    rows: int = 0
    quarantined: int = 0
    duplicates: int = 0
    digest: str = ""
    note: str = ""
    error: EvergreenError | None = field(default=None, compare=False, repr=False)

    def raise_for_outcome(self) -> None:
        """Raise the night's own error again, unless it was published.

        Raises
        ------
        PartitionRefused, SourceUnavailable, CircuitOpen
            with the note as their sentence.
        """
        if self.error is not None:
            raise self.error
        if self.outcome == "refused":
            raise PartitionRefused(self.note)
        if self.outcome == "unavailable":
            raise SourceUnavailable(self.note)
