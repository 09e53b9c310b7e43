"""Kills an erasure before each of its writes, repeats it, and prints what is left.

This process only forks; each child is killed or measured. ``python -m tests.ops.erasure.killer FOLDER STEP
[ADDRESS]`` prints a JSON line for the whole erasure of the lake in ``FOLDER/base``, or of its copy in another
store, and one for each STEP-th kill point.
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
from tests.ops.erasure.test_erase import erased, keys_with, places

CHANCE = ("salt", "hashes", "links")  # columns of the ledger that are other ones each time


def work(clinic: Clinic, fatal: int | None = None) -> int:
    """Erase, and return the number of writes; die before number ``fatal``."""
    seen = count_writes(fatal)
    erased(clinic)
    return seen[0]


def state(clinic: Clinic) -> dict[str, Any]:
    """Return digests of the tables, the places with the key in any byte, and what `verify` finds."""
    return {
        **clocks.state(clinic.lake, CHANCE),
        "places": keys_with(clinic.lake) if "://" in clinic.address else places(Path(clinic.address)),
        "differences": verify(clinic.lake, clinic.spec).differences,
    }


def main() -> None:
    """Go through the kill points."""
    base, folder = Path(sys.argv[1], "base"), Path(sys.argv[1], "work")
    address = sys.argv[3] if len(sys.argv) > 3 else None

    def anew() -> Clinic:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        if address:
            forked(lambda: Clinic(folder).move(address) is None)
        return Clinic(folder, address)

    clinic = anew()
    writes = forked(lambda: work(clinic))
    print(json.dumps({"writes": writes, "state": forked(lambda: state(clinic))}), flush=True)
    for point in range(1, writes + 1, int(sys.argv[2])):
        clinic = anew()
        ended = forked(lambda clinic=clinic, point=point: work(clinic, point))
        forked(lambda clinic=clinic: work(clinic))
        left = forked(lambda clinic=clinic: state(clinic))
        print(json.dumps({"point": point, "ended": ended, "state": left}), flush=True)


if __name__ == "__main__":
    main()
