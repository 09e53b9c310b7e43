"""Before a partition is scored, each partition that it looks back on is published, refused or unavailable.

So the order in which partitions are run makes no difference, and a source that was late or out is asked again
for a while.
"""

from __future__ import annotations

from include.environment import Connect
from include.errors import SettingError
from include.ingest.pipeline import NOTHING_YET, Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake

AGAIN = 3  # partitions for which a source that had nothing is asked again


def refresh_lookback(lake: Lake, spec: UseCase, partition: str, connect: Connect) -> list[Outcome]:
    """Ingest the partitions of the lookback that nobody attempted.

    And ask again for those lately unavailable.

    Partitions that nobody attempted, or whose source didn't answer, are known by their own rule, as in a
    historical load: an outage says nothing about when the data was there. Only where the source answered that
    it had nothing yet is what came late known on ``partition``.

    Returns
    -------
    list of Outcome
        of the partitions that were attempted here; none where all was settled. Partitions whose source can't
        be asked for want of its connection are among them and unrecorded: they are attempted again on the
        next partition.
    """
    last = spec.clock.shift(partition, -1)
    recent = spec.clock.shift(partition, -AGAIN)
    lookback = spec.clock.shift(partition, -max(spec.features.lookback, AGAIN))
    rows = lake.rows(
        "partitions", {"product": list(spec.sources), "partition": spec.clock.keys(lookback, last)}
    )
    known = {(row["product"], row["partition"]): row for row in rows}
    outcomes = []
    for source in spec.sources:
        partitions = spec.partitions(source, lookback, last)
        never = [one for one in partitions if (source, one) not in known]
        mine = [known[source, one] for one in partitions if one >= recent and (source, one) in known]
        again = [row for row in mine if row["outcome"] == "unavailable"]
        late = [row["partition"] for row in again if row["inputs"] == NOTHING_YET]
        missed = [row["partition"] for row in again if row["inputs"] != NOTHING_YET]
        for partitions, seen_on in ((never + missed, None), (late, partition)):
            if not partitions:
                continue
            try:
                outcomes += ingest(lake, spec, source, partitions, connect, seen_on=seen_on)
            except SettingError as error:  # another source's rows can be scored all the same
                outcomes += [
                    Outcome(source, n, "unavailable", note=str(error), error=error) for n in partitions
                ]
    return outcomes
