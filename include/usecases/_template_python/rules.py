"""Row checks: which typed rows of a source pass; the others are quarantined under the function's name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def whole_cents(rows: pa.Table) -> NDArray[np.bool_]:
    """Return whether each row's price is in whole cents, shape (n,)."""
    cents = rows["price"].to_numpy() * 100
    return np.asarray(np.isclose(cents, np.round(cents)))
