"""Kills an erasure before each of its writes, repeats it each time, and prints what is left.

``python -m tests.ops.erasure.killer FOLDER STEP``
prints a JSON line for the whole erasure of the lake in ``FOLDER/base``, and one for each STEP-th kill point.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.ops.verify import verify
from tests.faults import clocks
from tests.faults.killer import Rig, count_writes
from tests.ops.erasure.conftest import Clinic
from tests.ops.erasure.test_erase import erased, places

CHANCE = ("salt", "hashes", "links")  # columns of the ledger that are other ones each time


class Erasure(Rig):
    """A clinic whose patient is erased."""

    def work(self, before: Callable[[int], Any] = lambda write: None) -> int:
        """Erase, and return the number of writes."""
        seen = count_writes(before)
        erased(Clinic(self.folder / "work"))
        return seen[0]

    def state(self) -> dict[str, Any]:
        """Return digests of the tables, the places with the key in any byte, and what `verify` finds."""
        clinic = Clinic(self.folder / "work")
        return {
            **clocks.state(clinic.lake, CHANCE),
            "places": places(self.folder / "work" / "lake"),
            "differences": verify(clinic.lake, clinic.spec).differences,
        }


def main() -> None:
    """Print a line for each outcome."""
    rig = Erasure("erasure", Path(sys.argv[1]), "")
    rig.prepare()
    for outcome in rig.outcomes(int(sys.argv[2])):
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
