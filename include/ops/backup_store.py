"""The backup store: objects under their SHA-256, a manifest per backup, and the lock on the store.

Each object is stored once, so a second backup adds only new objects. The manifest is written last: a backup
without one doesn't exist, and the next backup reuses the objects that a killed one left.

The lock is an object with a heartbeat under ``locks/``. Backups and restores share the store, and a prune
needs it alone. A lock whose owner was killed expires.
"""

from __future__ import annotations

import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from include.environment import setting
from include.errors import BackupError, NotPublished, SettingError, StoreUnavailable
from include.references import digest_bytes, digest_json
from include.storage.lake import Lake

log = logging.getLogger(__name__)
ADDRESS_SETTING, COUNT_SETTING = "EVERGREEN_BACKUP", "EVERGREEN_BACKUPS_KEPT"
DEFAULT_COUNT = "8"  # two months of weekly backups
WORKERS = 8  # objects that are copied concurrently, each of them in memory
Objects = dict[str, tuple[str, str]]  # by key: the SHA-256 of the bytes, and their size and ETag in the lake
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Manifest:
    """The content of a backup.

    Parameters
    ----------
    name, code, lake : the backup's name, the commit that made it, and the lake's address.
    versions : each table's version, by use case.
    objects : the objects by use case; MLflow's artifacts are under the empty name.
    databases : the kind and the digest of each dump, by tool.
    missing : a sentence for each part that isn't in the backup.
    """

    name: str
    code: str
    lake: str
    versions: dict[str, dict[str, int]]
    objects: dict[str, Objects]
    databases: dict[str, tuple[str, str]]
    missing: list[str]

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Return a description of each object of some use cases, and of each dump, by digest."""
        objects = {digest: f"{n}/{key}" for n in names for key, (digest, _) in self.objects[n].items()}
        return objects | {digest: f"the database of {tool}" for tool, (_, digest) in self.databases.items()}


def address() -> str:
    """Return the address of the backup store."""
    if uri := setting(ADDRESS_SETTING, ""):
        return uri
    raise SettingError(
        ADDRESS_SETTING,
        required="a folder or s3://bucket/prefix outside the lake",
        found="none",
        remedy="set it in .env and run `make up` (Docker Compose), or for the workers and in the shell; "
        "see docs/how-to/back-up-and-restore.md",
    )


def backups_to_keep() -> int:
    """Return how many backups of each use case a prune keeps; 0: all."""
    value = setting(COUNT_SETTING, DEFAULT_COUNT) or DEFAULT_COUNT
    if not re.fullmatch(r"[0-9]{1,5}", value):
        raise SettingError(
            COUNT_SETTING,
            required="a number, or 0 for all",
            found=repr(value),
            remedy="set it to how many backups of each use case to keep",
        )
    return int(value)


def open_store() -> Lake:
    """Open the backup store at ``EVERGREEN_BACKUP``, which must be outside the lake."""
    store = Lake("backups", address())
    lake_prefix = _prefix(Lake("").uri)
    store_prefix = _prefix(store.uri.removesuffix("/backups"))
    if lake_prefix.startswith(store_prefix) or store_prefix.startswith(lake_prefix):
        raise BackupError(
            "backup",
            required=f"an address outside the lake, which is at {lake_prefix}",
            found=store_prefix,
            remedy=f"set {ADDRESS_SETTING} to another folder or bucket, so that losing the lake doesn't lose "
            "the backups",
        )
    return store


def _prefix(uri: str) -> str:
    """Return the prefix of every address inside this one."""
    folder = Path(unquote(urlsplit(uri).path)).resolve().as_uri() if uri.startswith("file:") else uri
    return folder.rstrip("/") + "/"


def backup_name(moment: datetime) -> str:
    """Return the name of a backup of this moment; names sort by time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def object_key(digest: str) -> str:
    """Return the key of the object with this digest."""
    return f"objects/{digest[:2]}/{digest}"


def store_object(store: Lake, data: bytes, sizes: dict[str, int]) -> str:
    """Write an object that isn't stored completely yet, and return its digest.

    Parameters
    ----------
    sizes : the sizes of the objects that were stored when the backup began, by key.
    """
    digest = digest_bytes(data)
    size = sizes.get(object_key(digest))
    if size is None:
        store.create(object_key(digest), data)
    elif size != len(data):
        store.replace(object_key(digest), data)
    return digest


def write_manifest(store: Lake, name: str, manifest: Manifest) -> None:
    """Write a backup's manifest, which completes the backup."""
    content = json.loads(json.dumps(asdict(manifest)))
    if not store.create(f"{name}.json", json.dumps(content | {"sha256": digest_json(content)}).encode()):
        raise BackupError(
            f"backup {name}",
            required="no other backup of the same second",
            found="one",
            remedy="back up again",
        )


def backup_names(store: Lake) -> list[str]:
    """Return the names of the complete backups, the oldest first."""
    return [match[1] for key in store.keys("") if (match := re.fullmatch(r"([^/]+)\.json", key))]


def load_manifest(store: Lake, name: str) -> Manifest:
    """Return a backup's manifest, if its checksum is right."""
    data = store.get(f"{name}.json")
    if data is None:
        newest = backup_names(store)[-9:]
        raise NotPublished(
            f"backup {name!r}",
            required="the name of a complete backup",
            found=", ".join(newest) or "none at all",
            where=store.uri,
            remedy="name one of these" if newest else f"back up first, or correct {ADDRESS_SETTING}",
        )
    try:
        content: dict[str, Any] = json.loads(data)
        if content.pop("sha256") != digest_json(content):
            raise ValueError
        return Manifest(**content)
    except (ValueError, TypeError, KeyError, AttributeError):
        others = [one for one in backup_names(store) if one != name]
        raise BackupError(
            f"backup {name}",
            required="the manifest that was written",
            found="other bytes",
            where=f"{store.uri}/{name}.json",
            remedy=f"use another one: {', '.join(others)}"
            if others
            else "back up again, if the lake is there",
        ) from None


def map_concurrently(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function to each item, in threads, and return the results in order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(function, items))


PREFIX = "locks"
# seconds; a process considers its lock lost well before the others consider it expired
HEARTBEAT, LOST, EXPIRED = 30, 240, 600
WAIT, PAUSE = 900, 3
Mode = Literal["shared", "exclusive"]
CONFLICTS: dict[Mode, tuple[Mode, ...]] = {"shared": ("exclusive",), "exclusive": ("exclusive", "shared")}
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # CLOCK_BOOTTIME runs while the machine sleeps


class StoreLock:
    """One process's lock on the backup store.

    Parameters
    ----------
    store : the backup store.
    mode : ``exclusive`` for a process that removes objects, else ``shared``.
    """

    def __init__(self, store: Lake, mode: Mode) -> None:
        self.store, self.mode = store, mode
        token = uuid4().hex
        self.key, self._probe = f"{PREFIX}/{mode}/{token}", f"{PREFIX}/probes/{token}"
        self._refreshed = _now()
        self._released = threading.Event()

    def require_valid(self) -> None:
        """Raise if others may have considered this lock expired; called before each irreversible step."""
        if _now() - self._refreshed > LOST:
            raise StoreUnavailable(
                f"{self.store.uri}/{self.key}",
                required=f"a heartbeat of this lock every {HEARTBEAT} s",
                found=f"none for {LOST} s, so another backup may have started",
                remedy="run it again; it reuses what was written",
            )

    def acquire(self) -> None:
        """Wait until no other process has a conflicting lock."""
        end = time.monotonic() + WAIT
        reported: set[str] = set()
        while True:
            # an exclusive lock probes first: writing its key would make others wait for a process that waits
            conflicts = self._conflicts(self._probe) if self.mode == "exclusive" else {}
            if not conflicts:
                self._refreshed = _now()
                if not (conflicts := self._conflicts(self.key)):
                    return
                if self.mode == "exclusive":
                    self.store.remove([self.key])
            if time.monotonic() >= end:
                other = "prunes" if self.mode == "shared" else "backs up, restores or prunes"
                raise StoreUnavailable(
                    self.store.uri,
                    required=f"no other process that {other}",
                    found=next(iter(conflicts)),
                    remedy="run it again when that has ended; the lock of a killed one expires after "
                    f"{EXPIRED // 60} min",
                )
            for key in conflicts.keys() - reported:
                expires = conflicts[key].astimezone(UTC) + timedelta(seconds=EXPIRED)
                log.warning(
                    "waiting for the process that has the lock %s/%s: until it ends, or until %s UTC if it "
                    "was killed, and for at most %d minutes",
                    *(self.store.uri, key, f"{expires:%H:%M:%S}", WAIT // 60),
                )
                reported.add(key)
            # jitter, so that two processes don't stay in step
            time.sleep(PAUSE * random.uniform(0.5, 1.5))  # noqa: S311  # not a secret

    def _conflicts(self, own: str) -> dict[str, datetime]:
        """Write a key, whose timestamp is the store's time now, and return the conflicts' last heartbeats."""
        self.store.replace(own, b"")
        written = self.store.last_modified(PREFIX)
        now = written.get(own)
        alive = [key for key, at in written.items() if now is None or (now - at).total_seconds() < EXPIRED]
        others = [key for key in alive if key.split("/")[1] in CONFLICTS[self.mode] and key != self.key]
        return {key: written[key] for key in others}

    def refresh(self) -> None:
        """Write a heartbeat, unless the lock is lost: then it is never refreshed again."""
        begun = _now()
        if begun - self._refreshed > LOST:
            return  # others may have begun, and `require_valid` raises from now on
        self.store.replace(self.key, b"")
        self._refreshed = begun

    def refresh_until_released(self) -> None:
        """Write a heartbeat every `HEARTBEAT` seconds."""
        while not self._released.wait(HEARTBEAT):
            with suppress(StoreUnavailable):  # `require_valid` raises when too many were missed
                self.refresh()

    def release(self) -> None:
        """Remove the lock; if the store doesn't answer, the lock expires."""
        self._released.set()
        with suppress(StoreUnavailable):
            self.store.remove([self.key, self._probe])


def _now() -> float:
    return time.clock_gettime(CLOCK)


@contextmanager
def lock_store(store: Lake, mode: Mode) -> Iterator[StoreLock]:
    """Acquire a lock on the backup store, keep it alive, and release it at the end.

    Raises
    ------
    StoreUnavailable
        when another process has a conflicting lock for too long.
    """
    lock = StoreLock(store, mode)
    try:
        lock.acquire()
        heartbeat = threading.Thread(target=lock.refresh_until_released, daemon=True)
        heartbeat.start()
        try:
            yield lock
        finally:
            lock._released.set()
            heartbeat.join()
    finally:
        lock.release()
