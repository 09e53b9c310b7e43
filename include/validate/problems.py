"""A problem of a use case: an error, a warning or a hint, with its five parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from include.errors import EvergreenError, SpecError

if TYPE_CHECKING:
    from include.spec import UseCase

Severity = Literal["error", "warning", "hint"]


@dataclass(frozen=True)
class ReportedProblem:
    """A problem that `validate` reports.

    Parameters
    ----------
    error : states subject, required, found, where and remedy.
    severity : only an error makes a use case invalid.
    """

    error: EvergreenError
    severity: Severity = "error"

    @property
    def sentence(self) -> str:
        """Return the message in one line, which begins with the severity unless it is an error."""
        return f"{'' if self.severity == 'error' else f'{self.severity}: '}{self.error}"

    def plain(self) -> dict[str, Any]:
        """Return the parts as plain values."""
        names = ("subject", "required", "found", "where", "remedy")
        return {"severity": self.severity, **{name: getattr(self.error, name) for name in names}}


def problem(
    spec: UseCase,
    subject: str,
    required: str,
    actual: str,
    remedy: str,
    *,
    where: str = "",
    severity: Severity = "error",
) -> ReportedProblem:
    """Return a problem of a declaration; ``subject`` is a path in it, and ``where`` its file by default."""
    error = SpecError(
        f"{spec.name}: {subject}",
        required=required,
        found=actual,
        where=where or str(spec.folder / "usecase.yaml"),
        remedy=remedy,
    )
    return ReportedProblem(error, severity)


def problems_of(
    spec: UseCase, required: str, remedy: str, function: Callable[..., object], *args: Any, **kwargs: Any
) -> Iterator[ReportedProblem]:
    """Call a function and yield the error that it raises, if any.

    Parameters
    ----------
    required, remedy : used where the error itself has none.
    """
    try:
        function(*args, **kwargs)
    except EvergreenError as error:
        yield ReportedProblem(
            type(error)(
                error.subject,
                required=error.required or required,
                found=error.found or "something else",
                where=error.where or str(spec.folder / "usecase.yaml"),
                remedy=error.remedy or remedy,
            )
        )
