"""Where backups lie: each object once, under its SHA-256, and of each backup a manifest, written last.

An object that is there isn't written again, so a second backup adds what is new. A backup without its
manifest doesn't exist: one that was killed left objects, which the next one finds.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from include.environment import lake_uri, setting
from include.errors import BackupError, NotPublished, SettingError, StoreUnavailable
from include.references import digest_bytes, digest_json
from include.storage.lake import Lake

SETTING, KEPT = "EVERGREEN_BACKUP", "EVERGREEN_BACKUPS_KEPT"
EIGHT = "8"  # weeks, of a weekly one
WORKERS = 8  # objects at once: each is held in memory
Objects = dict[str, tuple[str, str]]  # by key: the digest of the bytes, and the mark they had in the lake
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Parameters
    ----------
    made, code, lake : when, by which commit, and of the lake at which address.
    versions : by use case, each table's version.
    objects : by use case, and of the address ``artifacts`` under an empty name.
    databases : by tool, what kind of dump it is and its digest.
    missing : a sentence for each thing that isn't in it.
    """

    made: str
    code: str
    lake: str
    versions: dict[str, dict[str, int]]
    objects: dict[str, Objects]
    databases: dict[str, tuple[str, str]]
    missing: list[str]

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Return what the objects of some use cases are, by their digests."""
        found = {digest: f"{n}/{key}" for n in names for key, (digest, _) in self.objects[n].items()}
        return found | {digest: f"the database of {tool}" for tool, (_, digest) in self.databases.items()}


def address() -> str:
    """Return where backups go, or say that nobody said."""
    if found := setting(SETTING, ""):
        return found
    raise SettingError(
        f"setting {SETTING}",
        required="a folder or s3://bucket/prefix outside the lake",
        found="none",
        remedy="set it for Airflow's workers and for the shell; docs/how-to/back-up-and-restore.md says how",
    )


def backups_to_keep() -> int:
    """Return how many backups of each use case stay; 0: all."""
    value = setting(KEPT, EIGHT) or EIGHT
    if not re.fullmatch(r"[0-9]{1,5}", value):
        raise SettingError(f"setting {KEPT}", required="a number, or 0 for all", found=repr(value))
    return int(value)


def open_store(lake: str | None = None, to: str | None = None) -> Lake:
    """Open the place of the backups, which lies outside the lake.

    Parameters
    ----------
    lake, to : the addresses; ``EVERGREEN_LAKE`` and ``EVERGREEN_BACKUP`` unless given.
    """
    kept = Lake("backups", to or address())
    mine, theirs = _place(Lake("", lake or lake_uri()).uri), _place(kept.uri.removesuffix("/backups"))
    if mine.startswith(theirs) or theirs.startswith(mine):
        raise BackupError(
            "backup",
            required=f"an address outside the lake, which is at {mine}",
            found=theirs,
            remedy=f"let {SETTING} name another folder or bucket: what destroys the one must leave the other",
        )
    return kept


def _place(uri: str) -> str:
    """Return an address that another one's begins with if that lies in it."""
    folder = Path(unquote(urlsplit(uri).path)).resolve().as_uri() if uri.startswith("file:") else uri
    return folder.rstrip("/") + "/"


def backup_name(moment: datetime) -> str:
    """Return the name of a backup of this moment; later ones have greater names."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def object_key(digest: str) -> str:
    """Return where the object with this digest lies."""
    return f"objects/{digest[:2]}/{digest}"


def store_object(place: Lake, data: bytes, there: dict[str, int]) -> str:
    """Write an object that isn't there whole, and return its digest.

    Parameters
    ----------
    there : by key, how large the objects are that were there when the backup began.
    """
    digest = digest_bytes(data)
    size = there.get(object_key(digest))
    if size is None:
        place.create(object_key(digest), data)
    elif size != len(data):
        place.replace(object_key(digest), data)
    return digest


def write_manifest(place: Lake, name: str, manifest: Manifest) -> None:
    """Write the manifest, by which there is a backup of this name."""
    said = json.loads(json.dumps(asdict(manifest)))
    if not place.create(f"{name}.json", json.dumps(said | {"sha256": digest_json(said)}).encode()):
        raise BackupError(f"backup {name}", required="a name of its own", found="one of the same second")


def backup_names(place: Lake) -> list[str]:
    """Return the names of the backups that are complete, the oldest first."""
    return [found[1] for one in place.keys("") if (found := re.fullmatch(r"([^/]+)\.json", one))]


def load_manifest(place: Lake, name: str) -> Manifest:
    """Return a backup's manifest, if it is what was written."""
    data = place.get(f"{name}.json")
    if data is None:
        raise NotPublished(
            f"backup {name!r}",
            required="the name of a complete one",
            found=", ".join(backup_names(place)[-9:]) or "none at all",
            where=place.uri,
        )
    try:
        said: dict[str, Any] = json.loads(data)
        stated = said.pop("sha256")
        if digest_json(said) != stated:
            raise ValueError
        return Manifest(**said)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BackupError(
            f"backup {name}",
            required="the manifest that was written",
            found="other bytes",
            where=f"{place.uri}/{name}.json",
            remedy=f"another one: {', '.join(one for one in backup_names(place) if one != name) or 'none'}",
        ) from None


def map_concurrently(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what comes of each item, several at once."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, items))


PREFIX = "at_work"
# seconds; who couldn't write for `LOST` knows it before others pass it over at `SILENT`
BEAT, LOST, SILENT = 30, 240, 600
WAIT, PAUSE = 900, 3
Act = Literal["shares", "removes"]
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first goes on while the machine sleeps


def _now() -> float:
    return time.clock_gettime(CLOCK)


class Turn:
    """What one process does at the place of the backups.

    Parameters
    ----------
    kept : the place.
    act : whether it removes, or reads and adds as others may at the same time.
    """

    def __init__(self, kept: Lake, act: Act) -> None:
        self.kept, self.act = kept, act
        token = uuid4().hex
        self.key, self._look = f"{PREFIX}/{act}/{token}", f"{PREFIX}/looks/{token}"
        self._said = _now()
        self._over = threading.Event()

    def holds(self) -> None:
        """Pass while nobody can take this process for dead; asked before what can't be taken back."""
        if _now() - self._said > LOST:
            raise StoreUnavailable(
                f"{self.kept.uri}/{self.key}",
                required=f"a word that this is at work, every {BEAT} s",
                found=f"none for {LOST} s: others may have begun",
                remedy="run it again: what it wrote is found",
            )

    def await_others(self) -> None:
        """Wait until nobody is at work who mustn't be."""
        end = time.monotonic() + WAIT
        while True:
            # who waits to remove looks first: its word would make others wait for one who waits for them
            others = self._others(self._look) if self.act == "removes" else []
            if not others:
                self._said = _now()
                if not (others := self._others(self.key)):
                    return
                if self.act == "removes":
                    self.kept.remove([self.key])
            if time.monotonic() >= end:
                raise StoreUnavailable(
                    self.kept.uri,
                    required="nobody who " + ("removes" if self.act == "shares" else "backs up or removes"),
                    found=others[0],
                    remedy=f"run it again when that is through; a killed one counts for {SILENT // 60} min",
                )
            time.sleep(PAUSE * random.uniform(0.5, 1.5))  # noqa: S311  # no secret: so that two don't keep step

    def _others(self, own: str) -> list[str]:
        """Write a word, which tells the store's time, and return who is at work and mustn't be."""
        self.kept.replace(own, b"")
        written = self.kept.written(PREFIX)
        now = written.get(own)
        alive = [key for key, then in written.items() if now is None or (now - then).total_seconds() < SILENT]
        mustnt = ("removes",) if self.act == "shares" else ("removes", "shares")
        return [key for key in alive if key.split("/")[1] in mustnt and key != self.key]

    def say(self) -> None:
        """Write that this process is at work, unless it was silent for too long: then never again."""
        begun = _now()
        if begun - self._said > LOST:
            return  # others may have begun, and `holds` refuses from now on
        self.kept.replace(self.key, b"")
        self._said = begun

    def beat(self) -> None:
        """Say it again and again, until `end`."""
        while not self._over.wait(BEAT):
            with suppress(StoreUnavailable):  # `holds` knows
                self.say()

    def end(self) -> None:
        """Say no more; where that can't be taken back, silence says it."""
        self._over.set()
        with suppress(StoreUnavailable):
            self.kept.remove([self.key, self._look])


@contextmanager
def take_turn(kept: Lake, act: Act) -> Iterator[Turn]:
    """Be at work, while those wait who mustn't be.

    Raises
    ------
    StoreUnavailable
        when others are at work for too long.
    """
    mine = Turn(kept, act)
    try:
        mine.await_others()
        beating = threading.Thread(target=mine.beat, daemon=True)
        beating.start()
        try:
            yield mine
        finally:
            mine._over.set()
            beating.join()
    finally:
        mine.end()
