"""The shop of weekly_sales: the same weeks of CSV files at each call, so that tests can share them.

File ``sales/<Monday>.csv`` holds the plan of the week that begins (price, promotion) and the units that the
week before sold, so one source is both the rows to score and, a week later, their labels.
"""

from __future__ import annotations

import json
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pytest

FIRST = date(2024, 1, 1)  # a Monday
HEADER = "week,store,item,price_pence,promo,opens,units"
STORES = [f"s{number:02}" for number in range(1, 9)]
ITEMS = ["bread", "coffee", "milk", "soap", "tea"]


def partitions(weeks: int, first: int = 0) -> list[str]:
    """Return the partition keys of ``weeks`` Mondays from week ``first`` on."""
    return [(FIRST + timedelta(weeks=first + number)).isoformat() for number in range(weeks)]


def week(number: int) -> list[str]:
    """Return the lines of a week's file below its header, 40 of them."""
    monday = (FIRST + timedelta(weeks=number)).isoformat()
    price, promo = _plan(number)
    units = _units(number - 1)
    keys = [(store, item) for store in STORES for item in ITEMS]
    return [
        f"{monday},{store},{item},{price[row]},{'true' if promo[row] else 'false'},"
        f"{'0800' if store < 's05' else '930'},{units[row]}"
        for row, (store, item) in enumerate(keys)
    ]


def write(folder: Path, weeks: int, first: int = 0) -> list[str]:
    """Write ``weeks`` files below a folder and return their partition keys."""
    (folder / "sales").mkdir(parents=True, exist_ok=True)
    keys = partitions(weeks, first)
    for number, key in enumerate(keys, first):
        (folder / "sales" / f"{key}.csv").write_text("\n".join([HEADER, *week(number)]) + "\n")
    return keys


def connection(folder: Path) -> str:
    """Return the value of AIRFLOW_CONN_SHOP for files below a folder."""
    return json.dumps({"conn_type": "generic", "host": folder.absolute().as_uri()})


def install(folder: Path, weeks: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """Put the use case, its files and its lake below a folder; return the declaration and the partitions."""
    keys = write(folder / "shop", weeks)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", connection(folder / "shop"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(folder / "lake"))
    monkeypatch.setenv("EVERGREEN_USECASES", str(folder / "usecases"))
    usecase = shutil.copytree(Path(__file__).parent, folder / "usecases" / "weekly_sales")
    return usecase / "usecase.yaml", keys


def _plan(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prices in pence and promotions of a week, one a store and item."""
    random = np.random.default_rng([1, number + 1000])
    usual = np.tile([180, 450, 120, 250, 320], len(STORES))
    promo = random.random(usual.size) < 0.2
    price = np.rint(usual * np.where(promo, 0.75, 1.0) * random.uniform(0.95, 1.05, usual.size)).astype(int)
    return price, promo


def _units(number: int) -> np.ndarray:
    """Return what a week sold under its plan."""
    random = np.random.default_rng([2, number + 1000])
    price, promo = _plan(number)
    usual = np.tile([180, 450, 120, 250, 320], len(STORES))
    size = np.repeat(np.linspace(0.6, 1.8, len(STORES)), len(ITEMS))
    taste = np.tile([40, 12, 60, 8, 15], len(STORES))
    season = 1 + 0.2 * np.sin(2 * np.pi * number / 26)
    mean = taste * size * season * (price / usual) ** -1.5 * np.where(promo, 1.4, 1.0)
    return random.poisson(mean)
