"""Old backups go, and with them the objects that no other one needs.

A backup is a copy: it refers to nothing in the lake, and the lake to nothing in it. One stays while it is
among the newest so many of a use case, of a database or of MLflow's artifacts, so backups of one use case
push out none of another's. Manifests go first and objects after them, so a prune that was killed leaves whole
backups, and objects without a name that the next one finds. Where any backup is damaged nothing goes: a
person looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from include.errors import BackupError
from include.ops import backup_store
from include.ops.backup_store import Manifest, Turn, take_turn
from include.ops.restore import verify_objects
from include.storage.lake import Lake

GRACE = timedelta(minutes=5)  # that clocks may differ
BATCH = 1000  # objects that are removed at once


@dataclass(frozen=True)
class PruneResult:
    """What a prune came to.

    Parameters
    ----------
    read : the newest backup, and how many objects were read, every byte, before anything went: of everything
        that any backup holds, those of the newest that holds it.
    backups : the names of those that are gone.
    objects, size : how many objects went with them, and their bytes.
    stay : how many backups there are.
    """

    read: tuple[str, int]
    backups: tuple[str, ...]
    objects: int
    size: int
    stay: int

    @property
    def note(self) -> str:
        """The sentence a person reads."""
        gone = ", ".join(self.backups) or "no backup"
        return (
            f"{self.read[0]}, and the newest of what it lacks: {self.read[1]:,} objects, "
            f"each as it was written; backups kept: {self.stay}; "
            f"removed: {gone}, and {self.objects:,} objects ({self.size / 1e6:,.1f} MB) that none needs"
        )


def prune(kept: Lake, keep: int) -> PruneResult:
    """Read the newest of everything that backups hold, then remove those beyond the newest ``keep`` of it.

    Raises
    ------
    BackupError
        when one is damaged, or dated in the future: nothing was removed.
    StoreUnavailable
        when somebody backs up or prunes for too long: nothing was removed, or what was can go.
    """
    if keep < 1:
        raise BackupError("prune", required="one backup that stays, or more", found=f"{keep}")
    with take_turn(kept, "shares"):  # what is read mustn't go meanwhile
        manifests = intact_manifests(kept)
        if not manifests:
            raise BackupError("prune", required="a complete backup", found="none", where=kept.uri)
        newest, read = max(manifests), verify_objects(kept, "prune", newest_copies(manifests))
    with take_turn(kept, "removes") as mine:
        manifests = intact_manifests(kept)
        old = surplus_backups(manifests, keep)
        for name in old:
            mine.holds()
            kept.remove([f"{name}.json"])
        stay = {name: one for name, one in manifests.items() if name not in old}
        objects, size = _sweep(kept, stay, mine)
    return PruneResult((newest, read), tuple(old), objects, size, len(stay))


def intact_manifests(kept: Lake) -> dict[str, Manifest]:
    """Return the manifests by name, the oldest first, if each is as written and names what is there.

    An object counts as there if it has its size; only `examine` reads it.
    """
    found: dict[str, Manifest] = {}
    wrong: list[str] = []
    for name in backup_store.backup_names(kept):
        try:
            found[name] = backup_store.load_manifest(kept, name)
        except BackupError as error:
            wrong.append(f"{name}: {error.found}")
    there = {key: int(mark.split()[0]) for key, mark in kept.marks("objects").items()}
    lost = {name: count for name, one in found.items() if (count := _lost(one, there))}
    wrong += [f"{name}: {count:,} objects are gone or cut short" for name, count in lost.items()]
    if wrong:
        raise BackupError(
            "prune",
            required="backups that are all whole",
            found="; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=kept.uri,
            remedy="nothing was removed; back up again, which copies anew what the lake still has, or remove "
            "the manifest of one that can't be mended",
        )
    _past(kept, max(found, default=""))
    return found


def _past(kept: Lake, newest: str) -> None:
    """Refuse a backup that would be the newest for as long as its date is to come."""
    latest = backup_store.backup_name(datetime.now(UTC) + GRACE)
    if newest > latest:
        raise BackupError(
            "prune",
            required=f"backups made before {latest}",
            found=f"one of {newest}, which would stay while later ones go",
            where=f"{kept.uri}/{newest}.json",
            remedy="nothing was removed; set the clock right, of this machine or of the one that backed up, "
            "and give the manifest the name of the moment when it was made",
        )


def _lost(manifest: Manifest, there: Mapping[str, int]) -> int:
    """Return how many of a backup's objects aren't there in their size; that of a dump isn't known."""
    held = [one for objects in manifest.objects.values() for one in objects.values()]
    sizes = {digest: int(mark.split()[0]) for digest, mark in held}
    found = {
        digest: there.get(backup_store.object_key(digest)) for digest in manifest.digests(manifest.objects)
    }
    return sum(size is None or sizes.get(digest, size) != size for digest, size in found.items())


def newest_copies(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return what the newest backup of each use case, database and of the artifacts holds, by digest."""
    newest: dict[str, dict[str, str]] = {}
    for name in sorted(manifests):
        for part, objects in manifests[name].objects.items():
            newest[part] = {digest: f"{part}/{key} of {name}" for key, (digest, _) in objects.items()}
        for tool, (_, digest) in manifests[name].databases.items():
            newest[f"{tool}'s database"] = {digest: f"the database of {tool} of {name}"}
    return {digest: what for held in newest.values() for digest, what in held.items()}


def surplus_backups(manifests: Mapping[str, Manifest], keep: int) -> list[str]:
    """Return the names of the backups that hold nothing of which there aren't ``keep`` newer ones."""
    held: Counter[str] = Counter()
    old: list[str] = []
    for name in sorted(manifests, reverse=True):
        parts = {*manifests[name].objects, *(f"{tool}'s database" for tool in manifests[name].databases)}
        if name != max(manifests) and all(held[part] >= keep for part in parts):
            old.append(name)
        held.update(parts)
    return old[::-1]


def _sweep(kept: Lake, stay: Mapping[str, Manifest], mine: Turn) -> tuple[int, int]:
    """Remove the objects that no backup names, and return how many they were and their bytes."""
    named = {backup_store.object_key(digest) for one in stay.values() for digest in one.digests(one.objects)}
    left = {key: int(mark.split()[0]) for key, mark in kept.marks("objects").items() if key not in named}
    keys = sorted(left)
    for start in range(0, len(keys), BATCH):
        mine.holds()
        kept.remove(keys[start : start + BATCH])
    return len(left), sum(left.values())
