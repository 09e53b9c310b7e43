"""Copy the lake as it was at one moment, while nights run, and then the databases.

The moment comes first. A table's version only grows, so when every table has the version that it had a look
before, all of them had these versions between the two looks. A lake restored to them is one whose writers
were killed at that moment, which a rerun of the night heals; no row speaks of another that it doesn't hold.

The files come second. What a row refers to, a data file or an object, was written before the row was, so a
listing made after the moment has it; commits that came since are left out, and files that only they refer to
are rows of no table. Files of old versions are copied while the lake has them: what can be read of the past
before can be read afterwards. The databases come third, since the ledgers refer to runs that were finished;
the manifest is last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from include.backup import shelf
from include.backup.databases import DATABASES, Absent, dump
from include.backup.shelf import Manifest, Objects
from include.backup.turns import Turn, turn
from include.environment import Connect, code_version
from include.errors import BackupError, EvergreenError, StoreUnavailable
from include.lake import Lake

ARTIFACTS = "EVERGREEN_MLFLOW_ARTIFACTS"
LOOKS, PAUSE = 400, 0.3  # two minutes and more: a night leaves gaps between its commits
RECENT = 5  # backups, in which unchanged objects are looked for: what none has is read again
LOG = re.compile(r"tables/([^/]+)/_delta_log/(.*)")
COMMITTED = re.compile(r"(\d{20})\.(json|checkpoint\..*parquet)")


@dataclass(frozen=True)
class Done:
    """What a backup came to.

    Parameters
    ----------
    name : what `restore` is given.
    objects, copied : how many objects it holds, and how many of them weren't there before.
    size : bytes that were copied.
    missing : a sentence for each thing that isn't in it.
    failed : a sentence for each that was to be in it.
    """

    name: str
    uri: str
    objects: int
    copied: int
    size: int
    missing: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def note(self) -> str:
        """The sentence a person reads."""
        what = f"{self.name}: {self.objects:,} objects, of which {self.copied:,} are new"
        lack = "; ".join((*self.failed, *self.missing))
        return f"{what} ({self.size / 1e6:,.1f} MB), at {self.uri}" + (
            f"; not in this backup: {lack}" if lack else ""
        )


def backup(
    lakes: Sequence[Lake], kept: Lake, *, now: datetime, connect: Connect, artifacts: str = ""
) -> Done:
    """Add a backup of some use cases, and of the databases that there are connections to.

    Parameters
    ----------
    kept : the place of the backups, as `shelf` opens it.
    artifacts : where MLflow's server keeps them: a folder's or a bucket's address with a prefix.

    Raises
    ------
    StoreUnavailable
        when the lake or the place doesn't answer or isn't at rest for a moment.
    """
    with turn(kept, "shares") as mine:
        return _backup(lakes, kept, mine, now=now, connect=connect, artifacts=artifacts)


def _backup(
    lakes: Sequence[Lake], kept: Lake, mine: Turn, *, now: datetime, connect: Connect, artifacts: str
) -> Done:
    name = shelf.named(now)
    there = {key: int(mark.split()[0]) for key, mark in kept.marks("objects").items()}
    known = _known(kept)
    versions: dict[str, dict[str, int]] = {}
    objects: dict[str, Objects] = {}
    for lake in lakes:
        versions[lake.name] = cut(lake)
        keys = standing(lake.marks(), versions[lake.name])
        objects[lake.name] = _copied(lake, keys, kept, known.get(lake.name, {}), there)
    databases, missing, failed = _dumped(kept, connect, there)
    if artifacts:
        place = opened(artifacts)
        objects[""] = _copied(place, place.marks(), kept, known.get("", {}), there)
    else:
        missing.append(f"MLflow's artifacts ({ARTIFACTS} gives no address)")
    at = lakes[0].uri.rpartition("/")[0] if lakes else ""
    absent = [*failed, *missing]
    manifest = Manifest(name, code_version(), at, versions, objects, databases, absent)
    new = _arrived(kept, manifest, there)
    mine.holds()
    shelf.close(kept, name, manifest)
    held = len(manifest.digests(objects))
    return Done(name, kept.uri, held, len(new), sum(new), tuple(missing), tuple(failed))


def _known(kept: Lake) -> dict[str, Objects]:
    """Return what the newest backup of each use case holds; one that is damaged is in nobody's way."""
    found: dict[str, Objects] = {}
    for name in shelf.names(kept)[-RECENT:]:
        with suppress(BackupError):
            found |= shelf.load(kept, name).objects
    return found


def _arrived(kept: Lake, manifest: Manifest, there: Mapping[str, int]) -> list[int]:
    """Return the sizes of the objects that are new, and see that each that the manifest names is there."""
    now = kept.marks("objects")
    held = [shelf.key(digest) for digest in manifest.digests(manifest.objects)]
    if lost := [key for key in held if key not in now]:
        raise StoreUnavailable(
            f"{kept.uri}/{lost[0]}", required="an object of this backup", found="none", remedy="back up again"
        )
    return [int(now[key].split()[0]) for key in held if key not in there]


def opened(address: str) -> Lake:
    """Open a folder's or a bucket's address that has a prefix as a use case's is opened."""
    base, _, name = address.rstrip("/").rpartition("/")
    return Lake(name, base or "/")


def cut(lake: Lake) -> dict[str, int]:
    """Return the versions that all tables had at one moment.

    Raises
    ------
    StoreUnavailable
        when commits leave no gap.
    """
    for _ in range(LOOKS):
        first, second = ({table: lake.version(table) for table in lake.tables()} for _ in range(2))
        if first == second:
            return first
        time.sleep(PAUSE)
    raise StoreUnavailable(
        f"{lake.uri}/tables",
        required="a moment without a commit",
        found=f"none in {LOOKS:,} looks",
        remedy="back up again when fewer nights are being published",
    )


def standing(marks: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """Return what belongs to a lake whose tables have these versions.

    Of a log that is each commit up to the version. The pointer to its newest checkpoint isn't: it may be of a
    later commit, and a reader finds the checkpoints without it.
    """

    def belongs(key: str) -> bool:
        if not (log := LOG.fullmatch(key)):
            return True
        commit = COMMITTED.fullmatch(log[2])
        return commit is not None and int(commit[1]) <= versions.get(log[1], -1)

    return {key: mark for key, mark in marks.items() if belongs(key)}


def _copied(
    place: Lake,
    marks: Mapping[str, str],
    kept: Lake,
    known: Mapping[str, Sequence[str]],
    there: dict[str, int],
) -> Objects:
    """Copy what isn't there, and return the digest of each; what has the mark it had isn't read again."""

    def one(key: str) -> tuple[str, tuple[str, str]]:
        digest, mark = known.get(key, ("", ""))
        if mark == marks[key] and there.get(shelf.key(digest)) == int(mark.split()[0]):
            return key, (digest, mark)
        data = place.get(key)
        if data is None:
            raise StoreUnavailable(
                f"{place.uri}/{key}",
                required="an object that was there when the backup began",
                found="none",
                remedy="back up again when nothing tidies the lake",
            )
        etag = marks[key].partition(" ")[2]  # it may have been written again since
        return key, (shelf.keep(kept, data, there), f"{len(data)} {etag}")

    return dict(shelf.each(one, sorted(marks)))


def _dumped(
    kept: Lake, connect: Connect, there: dict[str, int]
) -> tuple[dict[str, tuple[str, str]], list[str], list[str]]:
    """Dump each database, and return the dumps, what was not to be had, and what failed."""
    dumps, missing, failed = {}, [], []
    for tool in DATABASES:
        try:
            kind, data = dump(tool, connect)
            dumps[tool] = (kind, shelf.keep(kept, data, there))
        except Absent as error:
            missing.append(str(error))
        except StoreUnavailable:
            raise
        except EvergreenError as error:
            failed.append(str(error))
    return dumps, missing, failed
