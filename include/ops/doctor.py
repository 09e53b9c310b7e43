"""Check what a run needs: packages, settings, disk, lake, registry, sources, alerts; each with its remedy.

The only thing written is a probe object in the lake, removed with its folder. No secret is printed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from secrets import token_hex

from include import environment
from include.errors import PYTHON, EvergreenError
from include.spec import UseCase, names, read_all

LOCK = Path(__file__).parents[2] / "requirements.txt"
PYTHONS = ((3, 11), (3, 13))  # first and last
FREE = 5  # GB
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
}
SETTINGS_REMEDY = (
    "set it in the environment of the shell and of Airflow's workers; "
    f'for the demo: `eval "$({PYTHON} -m demo.stack env)"`'
)


@dataclass(frozen=True)
class Check:
    """The result of one check; the remedy applies if it isn't ``ok``."""

    name: str
    ok: bool
    detail: str
    remedy: str


def run_checks() -> Iterator[Check]:
    """Run all checks, one after the other."""
    yield _python()
    yield _packages()
    why = "with several threads, fits at the same time slow each other down, and their bytes differ"
    yield _variables("threads", {"OMP_NUM_THREADS": "1"}, why)
    yield _variables("telemetry", NO_TELEMETRY, "otherwise libraries send usage data")
    yield _disk()
    yield _probe("lake", _lake, "check EVERGREEN_LAKE and AWS_*, AZURE_* or GOOGLE_*: docs/how-to/deploy.md")
    yield _probe("restores", _restores, "docs/how-to/back-up-and-restore.md says how to go on")
    yield _probe(
        "registry", _registry, "check MLFLOW_TRACKING_URI, …_USERNAME and …_PASSWORD, and the server"
    )
    good, bad = read_all()
    yield Check("declarations", not bad, f"{len(good)} read, {len(bad)} not", "; ".join(map(str, bad)))
    for spec in good:
        for source in spec.sources:
            name = f"source {spec.name}/{source}"
            variable = f"AIRFLOW_CONN_{spec.sources[source].connection.upper()}"
            yield _probe(name, partial(_source, spec, source), f"check {variable} and the source")
        for name in spec.alerts.to:
            remedy = f"check AIRFLOW_CONN_{name.upper()}, or wherever Airflow stores the connection"
            yield _probe(f"alerts {spec.name}/{name}", partial(_alert_connection, spec, name), remedy)


def _python() -> Check:
    current, (first, last) = sys.version_info[:2], PYTHONS
    supported = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    ok = first <= current <= last
    return Check("python", ok, f"{current[0]}.{current[1]}", f"run it with Python {supported}")


def _packages() -> Check:
    """Compare the installed packages with the lock file."""
    from packaging.requirements import Requirement

    lines = [
        line.rstrip(" \\") for line in LOCK.read_text().splitlines() if "==" in line and line[0].isalnum()
    ]
    locked = [req for req in map(Requirement, lines) if req.marker is None or req.marker.evaluate()]
    different = [
        f"{requirement.name} {version or 'missing'}"
        for requirement in locked
        if (version := _installed(requirement.name)) not in requirement.specifier
    ]
    detail = f"{len(locked) - len(different)} of {len(locked)} as locked"
    if different:
        detail += f": {', '.join(different[:5])}"
    return Check("packages", not different, detail, "run `make install`")


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _variables(name: str, required: dict[str, str], why: str) -> Check:
    missing = [f"{key}={value}" for key, value in required.items() if environment.setting(key, "") != value]
    detail = f"not set: {', '.join(missing)}" if missing else "set"
    return Check(name, not missing, detail, f"{SETTINGS_REMEDY}; {why}")


def _disk() -> Check:
    folder = environment.home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    return Check(
        "disk",
        free >= FREE,
        f"{free:.0f} GB free at {folder}",
        f"free {FREE} GB, or set EVERGREEN_HOME to another disk",
    )


def _probe(name: str, probe: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, probe(), remedy)
    except EvergreenError as error:
        return Check(name, False, str(error), remedy)
    except Exception as error:  # of a store or driver: its text may contain an address with a secret
        return Check(name, False, type(error).__name__, remedy)


def _lake() -> str:
    """Try what tables, ledgers and raw objects need of a store."""
    from include.storage.lake import Lake

    lake, key = Lake(f"_doctor_{token_hex(8)}"), "probe/object"
    lake.require_address()
    results = {
        "puts": lake.create(key, b"first"),
        "conditional puts": not lake.create(key, b"second"),
        "reading what was just put": lake.get(key) == b"first",
        "listing what was just put": key in lake.keys("probe"),
    }
    lake.remove([key])
    results["removing"] = lake.get(key) is None
    if lake.folder:
        shutil.rmtree(lake.folder)
    if lacking := [name for name, works in results.items() if not works]:
        raise EvergreenError(
            lake.uri,
            required=f"a store with {', '.join(results)}, or concurrent tasks undo each other's commits",
            found=f"one without {', '.join(lacking)}",
            remedy="set EVERGREEN_LAKE to another store",
        )
    return f"{environment.lake_uri()}: {', '.join(results)} work"


def _restores() -> str:
    """Open each use case's part of the lake, which is refused if a restore of it hasn't ended."""
    from include.storage.lake import Lake

    for name in names():
        Lake(name).version("partitions")
    return "none is unfinished"


def _registry() -> str:
    from include.models.registry import Registry

    registry = Registry()
    registry.aliases(next(iter(names()), "none"))
    return f"{registry.address()} answers"


def _source(spec: UseCase, source: str) -> str:
    """Fetch a source's first partition, once; "not available yet" is an answer too."""
    from include.ingest.connectors import open_source
    from include.ingest.connectors.request import NotAvailableYet, request

    first = spec.sources[source].start or spec.schedule.start
    partition = spec.clock.around(first)[1]
    first_request = request(spec, source, partition)
    declaration = first_request.source
    try:
        fetch = open_source(declaration, environment.endpoint(declaration.connection))
        next(iter(fetch(first_request)))
    except NotAvailableYet:
        return "answers, without data for its first partition"
    return "answers"


def _alert_connection(spec: UseCase, name: str) -> str:
    """Check a connection that alerts are sent to, without sending anything."""
    from include.monitor.alerts import MAIL_EXTRA, own_channel

    endpoint = environment.endpoint(name)
    if code := own_channel(spec, endpoint):
        code.load()
        return f"is set, for {code.name}; nothing was sent"
    if endpoint.kind == "smtp":
        required = 'a mail server as its host, and "to" and "from_email" in its extra'
        complete = bool(endpoint.uri) and all(endpoint.extra.get(key) for key in MAIL_EXTRA)
    else:
        required = "the full address of a webhook as its host"
        complete = endpoint.uri.startswith(("http://", "https://"))
    if complete:
        return "is set; nothing was sent"
    raise EvergreenError(
        f"connection {name}",
        required=required,
        found="something else",
        remedy="set it in the connection",
    )
