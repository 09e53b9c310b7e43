"""Use cases that differ from one of tests/usecases in what a test plants."""

from __future__ import annotations

import shutil
from pathlib import Path

# for use cases whose models nobody looks at: each kind of recipe once, fitted in no time
LIGHT = (
    ("    - {name: ridge, estimator: ridge, params: {alpha: 1.0}}\n", ""),
    ("    - {name: forest, estimator: random_forest, params: {n_estimators: 30, min_samples_leaf: 3}}\n", ""),
    (
        "{name: boosting, estimator: hist_gradient_boosting, params: {max_iter: 60, min_samples_leaf: 10}}",
        "{name: ridge, estimator: ridge, params: {alpha: 1.0}}",
    ),
)


def copy(folder: Path, name: str, *planted: tuple[str, str], of: str = "weekly_sales") -> None:
    """Lay a use case that differs from another one in its name, and where a text is replaced."""
    shutil.copytree(Path(__file__).parent / "usecases" / of, folder / name)
    file = folder / name / "usecase.yaml"
    text = file.read_text()
    for old, new in ((f"name: {of}", f"name: {name}"), *planted):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
