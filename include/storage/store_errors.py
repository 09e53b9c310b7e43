"""What a store raises when it can't be read or written has no common type; here it becomes one sentence.

A lost race and rows that don't fit are no fault of the store's, and pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError
from obstore.exceptions import BaseError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from include.environment import redact
from include.errors import StoreUnavailable


class HasUri(Protocol):
    """What lies at an address."""

    uri: str


S = TypeVar("S", bound=HasUri)
P = ParamSpec("P")
T = TypeVar("T")
_COLOUR = re.compile(r"\x1b\[\d+m")  # delta-rs paints its errors
retry_commit = retry(
    retry=retry_if_exception_type(CommitFailedError),
    wait=wait_random_exponential(multiplier=0.05, max=2),
    stop=stop_after_attempt(12),
    reraise=True,
)


def translate_store_errors(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Let a method raise `StoreUnavailable` where its store can't be read or written."""

    @wraps(method)
    def call(stored: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(stored, *args, **kwargs)
        except (CommitFailedError, SchemaMismatchError):
            raise
        except (OSError, DeltaError, BaseError, pa.ArrowInvalid) as error:
            if "failed validation check" in str(error):  # Delta's for a row that `where` doesn't name
                raise
            raise StoreUnavailable(
                stored.uri,
                required="a store that answers, and tables that can be read",
                found=redact(" ".join(_COLOUR.sub("", f"{type(error).__name__}: {error}").split()))[:300],
                remedy="`python -m include doctor` looks at it",
            ) from None  # S3's own answer to a wrong signature repeats the session token

    return call
