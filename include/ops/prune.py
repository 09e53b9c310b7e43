"""Remove old backups, and the objects that no remaining backup needs.

A backup is a copy: the lake and the backups don't refer to each other. A backup stays while it is among the
newest N of a use case, of a database or of MLflow's artifacts. So backups of one use case never displace
another's. Manifests are removed before objects, so a killed prune leaves complete backups, and the next prune
removes the unreferenced objects. If any backup is damaged, nothing is removed until a person has looked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from include.errors import BackupError
from include.ops import backup_store
from include.ops.backup_store import Manifest, StoreLock, lock_store
from include.ops.restore import verify_objects
from include.storage.lake import Lake

GRACE = timedelta(minutes=5)  # by which clocks may differ
BATCH = 1000  # objects that are removed in one request


@dataclass(frozen=True)
class PruneResult:
    """The result of a prune.

    Parameters
    ----------
    verified : the newest backup, and how many objects were read and compared with their digests before
        anything was removed: the newest copy of everything that any backup contains.
    backups : the names of the removed backups.
    objects, size : how many objects were removed, and their bytes.
    remaining : how many backups are left.
    """

    verified: tuple[str, int]
    backups: tuple[str, ...]
    objects: int
    size: int
    remaining: int

    @property
    def note(self) -> str:
        """The result in one sentence."""
        removed = ", ".join(self.backups) or "no backup"
        newest, count = self.verified
        return (
            f"verified {newest}, and the newest copy of what it lacks: {count:,} objects, "
            f"each as it was written; backups left: {self.remaining}; "
            f"removed: {removed}, and {self.objects:,} unreferenced objects ({self.size / 1e6:,.1f} MB)"
        )


def prune(store: Lake, keep: int) -> PruneResult:
    """Verify the newest copy of everything in the backups, then remove all but the newest ``keep``.

    Raises
    ------
    BackupError
        when a backup is damaged, or dated in the future: nothing was removed.
    StoreUnavailable
        when another process uses the store for too long: only unneeded objects were removed, if any.
    """
    if keep < 1:
        raise BackupError(
            "prune",
            required=f"{backup_store.COUNT_SETTING} of at least 1",
            found=f"{keep}",
            remedy="raise it, or don't prune: 0 keeps every backup",
        )
    if not backup_store.backup_names(store):  # before the lock, which would create the store's folder
        raise BackupError(
            "prune",
            required="a complete backup",
            found="none",
            where=store.uri,
            remedy=f"back up first, or correct {backup_store.ADDRESS_SETTING}",
        )
    with lock_store(store, "shared"):  # no object may be removed while it is verified
        manifests = intact_manifests(store)
        newest, count = max(manifests), verify_objects(store, "prune", newest_copies(manifests))
    with lock_store(store, "exclusive") as lock:
        manifests = intact_manifests(store)
        old = surplus_backups(manifests, keep)
        for name in old:
            lock.require_valid()
            store.remove([f"{name}.json"])
        remaining = {name: manifest for name, manifest in manifests.items() if name not in old}
        objects, size = _remove_unreferenced(store, remaining, lock)
    return PruneResult((newest, count), tuple(old), objects, size, len(remaining))


def intact_manifests(store: Lake) -> dict[str, Manifest]:
    """Return the manifests by name, the oldest first, if all are valid and all their objects exist.

    An object's size is compared here; only `verify_objects` reads it.
    """
    manifests: dict[str, Manifest] = {}
    problems: list[str] = []
    for name in backup_store.backup_names(store):
        try:
            manifests[name] = backup_store.load_manifest(store, name)
        except BackupError as error:
            problems.append(f"{name}: {error.found}")
    stored = store.sizes("objects")
    for name, manifest in manifests.items():
        if count := _damaged_objects(manifest, stored):
            problems.append(f"{name}: {count:,} objects are gone or cut short")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BackupError(
            "prune",
            required="backups that are all complete",
            found="; ".join(problems[:5]) + more,
            where=store.uri,
            remedy="nothing was removed; back up again, which replaces damaged objects if the lake still "
            "has them, or remove the manifest of a backup that can't be repaired",
        )
    _refuse_future(store, max(manifests, default=""))
    return manifests


def _refuse_future(store: Lake, newest: str) -> None:
    """Refuse a backup with a future date: it would count as the newest until then."""
    latest = backup_store.backup_name(datetime.now(UTC) + GRACE)
    if newest > latest:
        raise BackupError(
            "prune",
            required=f"backups made before {latest}",
            found=f"one of {newest}, which would stay while newer ones are removed",
            where=f"{store.uri}/{newest}.json",
            remedy="nothing was removed; correct the clock of this machine or of the one that backed up, "
            "and rename the manifest to the time at which it was made",
        )


def _damaged_objects(manifest: Manifest, stored: Mapping[str, int]) -> int:
    """Return how many objects are missing or have another size; the size of a dump isn't recorded."""
    copies = [copy for objects in manifest.objects.values() for copy in objects.values()]
    expected = {digest: int(size_and_etag.split()[0]) for digest, size_and_etag in copies}
    sizes = {
        digest: stored.get(backup_store.object_key(digest)) for digest in manifest.digests(manifest.objects)
    }
    return sum(size is None or expected.get(digest, size) != size for digest, size in sizes.items())


def newest_copies(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return a description of each object of the newest backup of each use case, database and artifacts."""
    newest: dict[str, dict[str, str]] = {}
    for name in sorted(manifests):
        for part, objects in manifests[name].objects.items():
            if objects:
                newest[part] = {digest: f"{part}/{key} of {name}" for key, (digest, _) in objects.items()}
        for tool, (_, digest) in manifests[name].databases.items():
            newest[f"{tool}'s database"] = {digest: f"the database of {tool} of {name}"}
    return {digest: text for objects in newest.values() for digest, text in objects.items()}


def surplus_backups(manifests: Mapping[str, Manifest], keep: int) -> list[str]:
    """Return the backups whose every part has ``keep`` newer copies; an empty part isn't a copy."""
    copies: Counter[str] = Counter()
    old: list[str] = []
    for name in sorted(manifests, reverse=True):
        parts = {part for part, objects in manifests[name].objects.items() if objects}
        parts |= {f"{tool}'s database" for tool in manifests[name].databases}
        if name != max(manifests) and all(copies[part] >= keep for part in parts):
            old.append(name)
        copies.update(parts)
    return old[::-1]


def _remove_unreferenced(store: Lake, manifests: Mapping[str, Manifest], lock: StoreLock) -> tuple[int, int]:
    """Remove the objects that no manifest refers to, and return their number and their bytes."""
    referenced = {
        backup_store.object_key(digest)
        for manifest in manifests.values()
        for digest in manifest.digests(manifest.objects)
    }
    surplus = {key: size for key, size in store.sizes("objects").items() if key not in referenced}
    keys = sorted(surplus)
    for start in range(0, len(keys), BATCH):
        lock.require_valid()
        store.remove(keys[start : start + BATCH])
    store.remove_unfinished_puts(datetime.now(UTC) - timedelta(seconds=backup_store.EXPIRED))
    return len(surplus), sum(surplus.values())
