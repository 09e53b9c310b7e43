"""Use cases that differ from one of tests/usecases in what a test plants."""

from __future__ import annotations

import shutil
from pathlib import Path

# for use cases whose models nobody looks at: each kind of recipe once, fitted in no time on few features
LIGHT = (
    ("[price, price_change, opens_minute, units_last_week, units_mean_4]", "[price, units_last_week]"),
    ("[store, item, promoted]", "[store]"),
    ("    spine.price - history.price_before AS price_change,\n    spine.opens AS opens_minute,\n", ""),
    (
        "    history.units_last_week,\n    history.units_mean_4,\n"
        "    CASE WHEN spine.promo THEN 'yes' ELSE 'no' END AS promoted\n",
        "    history.units_last_week\n",
    ),
    ("    - {name: ridge, estimator: ridge, params: {alpha: 1.0}}\n", ""),
    ("    - {name: forest, estimator: random_forest, params: {n_estimators: 30, min_samples_leaf: 3}}\n", ""),
    (
        "{name: boosting, estimator: hist_gradient_boosting, params: {max_iter: 60, min_samples_leaf: 10}}",
        "{name: ridge, estimator: ridge, params: {alpha: 1.0}}",
    ),
)


def copy(folder: Path, name: str, *planted: tuple[str, str], of: str = "weekly_sales") -> None:
    """Lay a use case that differs from another one in its name, and where a text of a file is replaced."""
    shutil.copytree(Path(__file__).parent / "usecases" / of, folder / name)
    texts = {
        path: path.read_text() for path in (folder / name / "usecase.yaml", folder / name / "features.sql")
    }
    for old, new in ((f"name: {of}", f"name: {name}"), *planted):
        (file,) = (path for path, text in texts.items() if old in text)
        texts[file] = texts[file].replace(old, new)
    for path, text in texts.items():
        path.write_text(text)
