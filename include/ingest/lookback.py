"""Before a night is scored, each night that it looks back on is published, refused or unavailable.

So the order in which nights are run makes no difference, and a source that was late or out is asked again for
a while.
"""

from __future__ import annotations

from include.environment import Connect
from include.errors import SettingError
from include.ingest.pipeline import NOTHING_YET, Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake

AGAIN = 3  # nights for which a source that had nothing is asked again


def refresh_lookback(lake: Lake, spec: UseCase, night: str, connect: Connect) -> list[Outcome]:
    """Ingest the nights of the lookback that nobody attempted, and ask again for those lately unavailable.

    Nights that nobody attempted, or whose source didn't answer, are known by their own rule, as in a
    historical load: an outage says nothing about when the data was there. Only where the source answered that
    it had nothing yet is what came late known on ``night``.

    Returns
    -------
    list of Outcome
        of the nights that were attempted here; none where all was settled. Nights whose source can't be asked
        for want of its connection are among them and unrecorded: they are attempted again on the next night.
    """
    last = spec.clock.shift(night, -1)
    recent = spec.clock.shift(night, -AGAIN)
    lookback = spec.clock.shift(night, -max(spec.features.lookback, AGAIN))
    rows = lake.rows("partitions", {"product": list(spec.sources), "night": spec.clock.keys(lookback, last)})
    known = {(row["product"], row["night"]): row for row in rows}
    outcomes = []
    for source in spec.sources:
        nights = spec.nights(source, lookback, last)
        never = [one for one in nights if (source, one) not in known]
        mine = [known[source, one] for one in nights if one >= recent and (source, one) in known]
        again = [row for row in mine if row["outcome"] == "unavailable"]
        late = [row["night"] for row in again if row["inputs"] == NOTHING_YET]
        missed = [row["night"] for row in again if row["inputs"] != NOTHING_YET]
        for nights, seen_on in ((never + missed, None), (late, night)):
            if not nights:
                continue
            try:
                outcomes += ingest(lake, spec, source, nights, connect, seen_on=seen_on)
            except SettingError as error:  # another source's rows can be scored all the same
                outcomes += [Outcome(source, n, "unavailable", note=str(error), error=error) for n in nights]
    return outcomes
