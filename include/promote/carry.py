"""A model is in the lake before it may serve, so that neither scoring nor a rollback needs the registry."""

from __future__ import annotations

import json

from include import models
from include.errors import ModelError
from include.lake import Lake
from include.promote.evidence import Evidence
from include.registry import Registry

FACTS = ("usecase", "night", "version", "spec", "data", "code")


def bring(lake: Lake, evidence: Evidence, registry: Registry) -> None:
    """Copy the challenger and its strongest baseline into the lake, and see that each loads from there.

    What is there already and loads is left alone, so a rerun needs no registry; what is damaged is replaced.

    Raises
    ------
    ModelError
        when the registry's copy has another digest or can't be loaded.
    """
    for role, digest in (("challenger", evidence.model), ("baseline", evidence.baseline_model)):
        facts = {"role": role, "prior": evidence.prior, "attempt": evidence.key}
        facts |= {name: getattr(evidence, name) for name in FACTS}
        lake.create(f"models/{digest}.json", json.dumps(facts, sort_keys=True).encode())
        try:
            models.fetch(lake, digest)
        except ModelError:
            run = registry.run_of(evidence.usecase, evidence.version)
            data = registry.get(run, models.key(digest), digest)
            models.load(data, digest)
            lake.replace(models.key(digest), data)
