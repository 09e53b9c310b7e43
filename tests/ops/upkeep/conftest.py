"""The clinic with its first training, as the evaluation's tests have it."""

from __future__ import annotations

from tests.evaluate.conftest import clinic, trained

__all__ = ["clinic", "trained"]
