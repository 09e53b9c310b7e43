"""A lake that counts what is read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from include.storage.lake import Lake


class Counting(Lake):
    """A lake that counts the rows it hands out, and the groups of rows that it counts itself."""

    handed = 0
    grouped = 0

    def read(self, *args: Any, **kwargs: Any) -> pa.Table | None:
        """Read, and count."""
        found = super().read(*args, **kwargs)
        self.handed += 0 if found is None else found.num_rows
        return found

    def counts(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """Count rows by group, and the groups."""
        found = super().counts(*args, **kwargs)
        self.grouped += len(found)
        return found
