"""Kills an erasure before each of its writes, repeats it, and prints what is left.

This process only forks; each child is killed or measured. ``python -m tests.ops.erasure.killer FOLDER STEP``
prints a JSON line for the whole erasure of the lake in ``FOLDER/base``, and one for each STEP-th kill point.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from include.ops.verify import verify
from tests.faults import clocks
from tests.faults.killer import count_writes, forked
from tests.ops.erasure.conftest import Clinic
from tests.ops.erasure.test_erase import erased, places

CHANCE = ("salt", "hashes", "links")  # columns of the ledger that are other ones each time


def work(folder: Path, fatal: int | None = None) -> int:
    """Erase, and return the number of writes; die before number ``fatal``."""
    seen = count_writes(fatal)
    erased(Clinic(folder))
    return seen[0]


def state(folder: Path) -> dict[str, Any]:
    """Return digests of the tables, the places with the key in any byte, and what `verify` finds."""
    clinic = Clinic(folder)
    return {
        **clocks.state(clinic.lake, CHANCE),
        "places": places(folder / "lake"),
        "differences": verify(clinic.lake, clinic.spec).differences,
    }


def main() -> None:
    """Go through the kill points."""
    base, folder = Path(sys.argv[1], "base"), Path(sys.argv[1], "work")

    def anew() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)

    anew()
    writes = forked(lambda: work(folder))
    print(json.dumps({"writes": writes, "state": forked(lambda: state(folder))}), flush=True)
    for point in range(1, writes + 1, int(sys.argv[2])):
        anew()
        ended = forked(lambda point=point: work(folder, point))
        forked(lambda: work(folder))
        left = forked(lambda: state(folder))
        print(json.dumps({"point": point, "ended": ended, "state": left}), flush=True)


if __name__ == "__main__":
    main()
