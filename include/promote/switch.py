"""The rows of `deployments` that a step of a promotion writes, found again, and told as a reference."""

from __future__ import annotations

import json
from collections.abc import Sequence

from include.lake import Lake
from include.promote.evidence import Evidence
from include.promote.grow import Row
from include.refs import Ref

WITHDRAWN = "withdrawn"  # the kind of the switch that ends a trial without a promotion


def steps(evidence: Evidence, roles: Sequence[str], **why: str) -> list[Row]:
    """Return one row a role for an attempt's challenger, and for its baseline where that is a role.

    Parameters
    ----------
    why : ``kind``, ``by``, ``reason``, ``attempt``, ``request`` and ``effective``, as `deployments` has them.
    """
    models = {"champion": evidence.model, "challenger": evidence.model, "baseline": evidence.baseline_model}
    several = isinstance(evidence.prior, tuple)
    prior = {"prior": None, "priors": json.dumps(evidence.prior)} if several else {"prior": evidence.prior}
    common = {"version": evidence.version, **prior, "evidence": evidence.night, **why}
    return [{**common, "role": role, "model": models[role]} for role in roles]


def asked(rows: Sequence[Row], request: str) -> Row | None:
    """Return the newest row that a request made for its model, if it was carried out."""
    done = [row for row in rows if request and row["request"] == request and row["role"] != "baseline"]
    return done[-1] if done else None


def reference(lake: Lake, row: Row, note: str = "") -> Ref:
    """Return where a switch is recorded, with the sentence that says it."""
    who = f" by {row['by']}" if row["by"] else ""
    note += f"v{row['version']} {row['kind']}{who}, {row['role']} from {row['effective']} on: {row['reason']}"
    uri = f"{lake.uri}/tables/deployments"
    return Ref(uri=uri, partition=row["effective"], digest=row["model"], rows=1, note=note[:500])
