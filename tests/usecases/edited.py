"""A use case of the tests with another declaration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from include.spec import UseCase
from include.spec.load import read


def read_edited(shipped: Path, usecases: Path, edit: Callable[[dict[str, Any]], None]) -> UseCase:
    """Write a use case of this folder below another one after editing its declaration, and read it."""
    folder = usecases / shipped.name
    folder.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((shipped / "usecase.yaml").read_text())
    edit(raw)
    (folder / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    shutil.copy(shipped / "features.sql", folder)
    return read(folder / "usecase.yaml")
