"""What a run needs and may not find: packages, lake, registry, sources, settings, room; each with its remedy.

Nothing is changed but for one probe object in the lake, and no secret is shown.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import metadata
from pathlib import Path

from include import environment
from include.errors import EvergreenError
from include.spec import UseCase, names, read_all
from include.spec.clock import day_of

LOCK = Path(__file__).parents[2] / "requirements.txt"
PYTHONS = ((3, 11), (3, 13))  # first and last
FREE = 5  # GB
QUIET = {  # telemetry is off, whoever's it is
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
}
SETTINGS = '`eval "$(python -m demo.stack env)"` sets what the demo needs'


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; the remedy is for when it is not ``ok``."""

    name: str
    ok: bool
    found: str
    remedy: str


def run_checks() -> Iterator[Check]:
    """Look at everything, one check after the other."""
    yield _python()
    yield _packages()
    yield _switches(
        "threads", {"OMP_NUM_THREADS": "1"}, "two fits with threads of their own stall each other"
    )
    yield _switches("telemetry", QUIET, "libraries report to their makers unless told not to")
    yield _room()
    yield _tried("lake", _lake, "look at EVERGREEN_LAKE and AWS_*; the store must honour conditional puts")
    yield _tried(
        "registry", _registry, "look at MLFLOW_TRACKING_URI, …_USERNAME and …_PASSWORD, and at the server"
    )
    good, bad = read_all()
    yield Check("declarations", not bad, f"{len(good)} read, {len(bad)} not", "; ".join(map(str, bad)))
    for spec in good:
        for source in spec.sources:
            name = f"source {spec.name}/{source}"
            variable = f"AIRFLOW_CONN_{spec.sources[source].connection.upper()}"
            yield _tried(name, partial(_source, spec, source), f"look at {variable} and the source")
        for name in spec.alerts.to:
            remedy = f"look at AIRFLOW_CONN_{name.upper()}; where Airflow keeps it elsewhere, look there"
            yield _tried(f"alerts {spec.name}/{name}", partial(_told, name), remedy)


def _python() -> Check:
    here, (first, last) = sys.version_info[:2], PYTHONS
    wanted = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    return Check("python", first <= here <= last, f"{here[0]}.{here[1]}", f"run it with Python {wanted}")


def _packages() -> Check:
    """Compare what is installed with the lock."""
    from packaging.requirements import Requirement

    lines = [
        line.rstrip(" \\") for line in LOCK.read_text().splitlines() if "==" in line and line[0].isalnum()
    ]
    locked = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    wrong = [
        f"{one.name} {found or 'missing'}"
        for one in locked
        if (found := _installed(one.name)) not in one.specifier
    ]
    said = f"{len(locked) - len(wrong)} of {len(locked)} as locked"
    return Check(
        "packages", not wrong, f"{said}: {', '.join(wrong[:5])}" if wrong else said, "run `make install`"
    )


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _switches(name: str, wanted: dict[str, str], why: str) -> Check:
    off = [f"{key}={value}" for key, value in wanted.items() if environment.setting(key, "") != value]
    return Check(
        name, not off, "as wanted" if not off else f"not set: {', '.join(off)}", f"{SETTINGS}; {why}"
    )


def _room() -> Check:
    place = environment.home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    return Check(
        "disk",
        free >= FREE,
        f"{free:.0f} GB free at {place}",
        f"make room for {FREE} GB, or set EVERGREEN_HOME",
    )


def _tried(name: str, look: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, look(), remedy)
    except EvergreenError as error:
        return Check(name, False, str(error), remedy)
    except (
        Exception
    ) as error:  # a store's or a driver's own error, whose text may hold an address with a secret
        return Check(name, False, type(error).__name__, remedy)


def _lake() -> str:
    from include.storage.lake import Lake

    lake = Lake("_doctor")
    lake.create("probe", b"first")
    if lake.create("probe", b"second") or lake.get("probe") != b"first":
        raise EvergreenError(
            lake.uri, required="a second conditional put to be refused", found="it overwrote the first"
        )
    return f"{environment.lake_uri()}, conditional puts are honoured"


def _registry() -> str:
    from include.models.registry import Registry

    registry = Registry()
    registry.aliases(next(iter(names()), "none"))
    return f"{registry.address()} answers"


def _source(spec: UseCase, source: str) -> str:
    """Ask a source for its first partition, once: that it has nothing is an answer too."""
    from include.ingest.connectors.registry import open_source
    from include.ingest.connectors.request import NotAvailableYet, request

    first = spec.sources[source].start or spec.schedule.start
    partition = spec.clock.keys(first, (day_of(first) + timedelta(days=366)).isoformat())[0]
    asked = request(spec, source, partition)
    try:
        next(iter(open_source(asked.source, environment.endpoint(asked.source.connection))(asked)))
    except NotAvailableYet:
        return "answers, and has nothing for its first partition"
    return "answers"


def _told(name: str) -> str:
    """Look at a connection that alerts go to, and send nothing."""
    found = environment.endpoint(name)
    if found.uri.startswith(("http://", "https://")) or (found.uri and found.extra.get("to")):
        return "is set; nothing was sent"
    raise EvergreenError(
        f"connection {name}",
        required='a webhook\'s whole address as its host, or a mail server with "to" in its extra',
        found="neither",
    )
