"""How often `unseen` alarms over the flights' year, with and without what the last weeks had.

    EVERGREEN_LAKE=file:///... python -m benchmarks.unseen

on a lake with the year's sources and a first champion (``python -m benchmarks.year``, stopped at will). Each
later partition is judged against that champion's reference by a partition's own function, as if it served all
year.
"""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from include.features.build import features
from include.monitor import reference
from include.monitor.checks import drift
from include.promote import ledger
from include.spec import load
from include.stats import profiles
from include.storage.lake import Lake

LAST = "2013-12-28"  # whose labels the year's last partition brings


def main() -> None:
    """Judge each partition of the year and print how many alarmed, and on what."""
    spec = load("flight_delay")
    lake, of, rules = Lake(spec.name), spec.features, spec.monitoring
    champion = ledger.champions(ledger.switches(lake))[0]
    learned = reference.read(lake, spec, champion)
    assert learned is not None
    partitions = spec.clock.keys(str(champion["effective_from"]), LAST)
    rows = features(lake, spec, partitions)
    profile_history: list[dict[str, dict[str, object]]] = []
    alerts: dict[str, Counter[str]] = {"alone": Counter(), "lately": Counter()}
    any_of: Counter[str] = Counter()
    episodes: dict[str, list[str]] = {}
    for partition in partitions:
        part = rows.filter(pc.equal(rows["partition"], partition))
        built = profiles.build_profile("features", partition, part, of.numeric, of.categorical).to_pylist()
        profile_history.append({row["column"]: row for row in built})
        for rule, counts in alerts.items():
            past = (
                profile_history[
                    -rules.sudden_changes.past - rules.sudden_changes.of : -rules.sudden_changes.of
                ]
                if rule == "lately"
                else []
            )
            alarmed = set()
            for name, row in profile_history[-1].items():
                lately = [one[name] for one in past]
                current = profiles.merge_profiles([row])[name]
                if drift.check_unseen(name, learned.columns[name], current, rules, lately).outcome == "alarm":
                    alarmed.add(name)
            counts.update(alarmed)
            any_of[rule] += bool(alarmed)
            if rule == "lately":
                for name in alarmed:
                    episodes.setdefault(name, []).append(partition)
    print(f"{len(partitions)} partitions, {partitions[0]} to {partitions[-1]}")
    for rule, counts in alerts.items():
        each = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        print(f"{rule}: {any_of[rule]} partitions ({any_of[rule] / len(partitions):.1%}): {each}")
    for name, when in sorted(episodes.items()):
        print(f"{name}: {', '.join(when)}")


if __name__ == "__main__":
    main()
