"""Translates the errors that storage libraries raise into `StoreUnavailable`, and retries lost commits.

The libraries' errors have no common base class. A commit that lost a race and rows that don't fit a table
aren't failures of the store, so they pass unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError
from obstore.exceptions import BaseError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from include.environment import redact
from include.errors import PYTHON, ConcurrentCommit, StoreUnavailable


class HasUri(Protocol):
    """A store with an address."""

    uri: str


S = TypeVar("S", bound=HasUri)
P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
# the libraries have no common type for it either
FULL_DISK = ("No space left on device", "Disk quota exceeded", "StorageFull")
_ANSI_COLOR = re.compile(r"\x1b\[\d+m")  # delta-rs colors its messages


def retry_commit(function: F) -> F:
    """Repeat a function whose commit lost to a concurrent one; at last raise what it raises."""
    retrying = retry(
        retry=retry_if_exception_type((CommitFailedError, ConcurrentCommit)),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_attempt(100),  # on a slow store, reruns of neighboring partitions lose many times
        reraise=True,
    )
    return cast(F, retrying(function))


def translate_store_errors(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a method raise `StoreUnavailable` if its store can't be read or written."""

    @wraps(method)
    def wrapper(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(store, *args, **kwargs)
        except (CommitFailedError, SchemaMismatchError):
            raise
        except (OSError, DeltaError, BaseError, pa.ArrowInvalid) as error:
            if "failed validation check" in str(error):  # Delta's message for a row outside of `where`
                raise
            message = _ANSI_COLOR.sub("", f"{type(error).__name__}: {error}")
            required, found = "a store that answers, and tables that can be read", message
            remedy = f"run `{PYTHON} -m include doctor` to check it"
            if full := next((text for text in FULL_DISK if text in message), ""):
                required, found = "space on the lake's disk", full
                remedy = "free some space, then run it again; what was committed before is whole"
            raise StoreUnavailable(
                store.uri,
                required=required,
                found=redact(" ".join(found.split()))[:300],
                remedy=remedy,
            ) from None  # S3's response to a wrong signature repeats the session token

    return wrapper
