"""Kills an erasure before each of its writes, repeats it each time, and prints what is left.

``python -m tests.ops.erasure.killer FOLDER STEP [ADDRESS]`` prints a JSON line for the whole erasure of the
lake in ``FOLDER/base``, or of its copy in another store, and one for each STEP-th kill point.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from include.ops.verify import verify
from tests.faults import clocks
from tests.faults.killer import Rig, count_writes, forked
from tests.ops.erasure.conftest import Clinic
from tests.ops.erasure.test_erase import erased, keys_with, places

CHANCE = ("salt", "hashes", "links")  # columns of the ledger that are other ones each time


class Erasure(Rig):
    """A clinic whose patient is erased, from a lake in its folder or in another store."""

    def __init__(self, folder: Path, address: str | None) -> None:
        super().__init__("erasure", folder, "")
        self.address = address

    def clinic(self) -> Clinic:
        """Return the clinic as it is now."""
        return Clinic(self.folder / "work", self.address)

    def lay(self, state: str) -> None:
        """Lay a state of the disk, and of the store."""
        super().lay(state)
        if self.address:
            address = self.address
            forked(lambda: Clinic(self.folder / "work").move(address) is None)

    def keep(self, point: int) -> None:
        """Copy what is in the folder or in the store before a write."""
        if self.address:
            lake, local = self.clinic().lake, self.folder / "work" / "lake" / "clinic"
            shutil.rmtree(local)
            for key in lake.keys(""):
                (local / key).parent.mkdir(parents=True, exist_ok=True)
                (local / key).write_bytes(lake.get(key) or b"")
        super().keep(point)

    def work(self, before: Callable[[int], Any] = lambda write: None) -> int:
        """Erase, and return the number of writes."""
        seen = count_writes(before)
        erased(self.clinic())
        return seen[0]

    def state(self) -> dict[str, Any]:
        """Return digests of the tables, the places with the key in any byte, and what `verify` finds."""
        clinic = self.clinic()
        return {
            **clocks.state(clinic.lake, CHANCE),
            "places": keys_with(clinic.lake) if self.address else places(Path(clinic.address)),
            "differences": verify(clinic.lake, clinic.spec).differences,
        }


def main() -> None:
    """Print a line for each outcome."""
    rig = Erasure(Path(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else None)
    rig.prepare()
    for outcome in rig.outcomes(int(sys.argv[2])):
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
