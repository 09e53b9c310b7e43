"""Declares what actions cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from include.spec import UseCase
from tests.features import parcels

COSTS = {0: {"wait": 0, "warn": 1}, 1: {"wait": 1, "warn": 0}}


def declare(folder: Path, costs: dict[int, dict[str, float]] | None) -> UseCase:
    """Declare the use case with these costs."""
    problem: dict[str, Any] = yaml.safe_load(parcels.SPEC)["problem"]
    return parcels.spec(folder, problem=problem | ({"costs": costs} if costs else {}))
