"""Bring a use case's lake back to the moment of a backup, into a place that is empty.

Every byte is read and compared with its digest before the first is written. Tables are there once their logs
are, and `partitions` last: a restore that was cut off shows no partition that isn't whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from include.environment import lake_uri
from include.errors import BackupError
from include.ops import backup_store
from include.ops.backup import ARTIFACTS, ENDINGS, LOG, REMEDIES, open_address
from include.ops.backup_store import Manifest, Objects, take_turn
from include.references import digest_bytes
from include.storage.lake import Lake


def restore(
    kept: Lake, name: str, usecase: str | None = None, *, artifacts: str = "", dumps: Path | None = None
) -> list[str]:
    """Restore a backup, or one use case of it, and return what was done and what is left to a person.

    Parameters
    ----------
    artifacts : where MLflow's are restored to: empty, or not at all.
    dumps : a folder to write the databases' dumps to, for their own tools.

    Raises
    ------
    BackupError
        when a byte of it isn't what was written, or there is something at the place already: nothing was
        written.
    StoreUnavailable
        when somebody prunes for too long: nothing was written.
    """
    with take_turn(kept, "shares"):  # what is read mustn't go meanwhile
        return _restore(kept, backup_store.load_manifest(kept, name), usecase, artifacts, dumps)


def read_backup(kept: Lake, name: str) -> int:
    """Read every object of a backup, as `restore` does, and return how many there are."""
    with take_turn(kept, "shares"):
        return examine_backup(kept, backup_store.load_manifest(kept, name))


def _restore(
    kept: Lake, manifest: Manifest, usecase: str | None, artifacts: str, dumps: Path | None
) -> list[str]:
    wanted = [one for one in manifest.objects if one and usecase in (None, one)]
    if usecase is not None and not wanted:
        holds = ", ".join(one for one in manifest.objects if one)
        raise BackupError(f"backup {manifest.made}", required=usecase, found=f"only {holds}")
    places = {one: Lake(_safe(one), lake_uri()) for one in wanted}
    if artifacts and "" in manifest.objects:
        places[""] = open_address(artifacts)
    for place in places.values():
        _empty(place)
    examine_backup(kept, manifest, [*places])
    for one, place in places.items():
        _write(kept, manifest.objects[one], place)
        _reached(place, manifest.versions.get(one, {}))
    said = [f"{place.uri}: {len(manifest.objects[one]):,} objects" for one, place in places.items()]
    return [*said, *_databases(kept, manifest, dumps), *_lacking(manifest, places)]


def examine_backup(kept: Lake, manifest: Manifest, names: list[str] | None = None) -> int:
    """Read every object of a backup, compare it with its digest, and return how many there are."""
    meant = manifest.digests(manifest.objects if names is None else names)
    return verify_objects(kept, f"backup {manifest.made}", meant)


def verify_objects(kept: Lake, subject: str, meant: Mapping[str, str]) -> int:
    """Read objects, compare each with its digest, and return how many there are.

    Parameters
    ----------
    meant : what each is, by its digest.
    """

    def wrong(digest: str) -> str:
        data = kept.get(backup_store.object_key(digest))
        if data is not None and digest_bytes(data) == digest:
            return ""
        return (
            f"{kept.uri}/{backup_store.object_key(digest)} ({meant[digest]}) is "
            f"{'damaged' if data else 'gone'}"
        )

    if found := [sentence for sentence in backup_store.map_concurrently(wrong, meant) if sentence]:
        raise BackupError(
            subject,
            required=f"{len(meant):,} objects as they were written",
            found="; ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else ""),
            remedy="nothing was written; take another backup, or where the lake still is remove the damaged "
            "object and back up again: that copies it anew",
        )
    return len(meant)


def _safe(name: str) -> str:
    if not re.fullmatch(r"\w+", name):
        raise BackupError(f"use case {name!r}", required="letters, digits and _", found="something else")
    return name


def _empty(place: Lake) -> None:
    if found := place.marks():
        raise BackupError(
            place.uri,
            required="an empty place to restore to",
            found=f"{len(found):,} objects, as {min(found)}",
            remedy="let EVERGREEN_LAKE name another address, or remove what is there, which a restore that "
            "was cut off may have left",
        )


def _write(kept: Lake, objects: Objects, place: Lake) -> None:
    """Write objects, then the tables' logs, and that of `partitions` last."""

    def step(key: str) -> int:
        log = LOG.fullmatch(key)
        return 0 if log is None else 1 + (log[1] == "partitions")

    def one(key: str) -> None:
        digest = objects[key][0]
        data = kept.get(backup_store.object_key(digest))
        if data is None or digest_bytes(data) != digest or not place.create(key, data):
            raise BackupError(
                f"{place.uri}/{key}",
                required="the bytes that were read before, and nobody else who writes",
                found="something else",
                remedy="remove what was restored, see that nothing runs, and restore again",
            )

    for now in range(3):
        backup_store.map_concurrently(one, [key for key in objects if step(key) == now])


def _reached(place: Lake, versions: dict[str, int]) -> None:
    """See that the tables that were restored are the tables that were backed up."""
    found = {table: place.version(table) for table in versions}
    if found != versions:
        raise BackupError(f"{place.uri}/tables", required=f"{versions}", found=f"{found}")


def _databases(kept: Lake, manifest: Manifest, dumps: Path | None) -> Iterator[str]:
    """Write the dumps, and yield what a person does with each."""
    for tool, (kind, digest) in manifest.databases.items():
        if dumps is None:
            yield f"{tool}'s database is in the backup; --dumps FOLDER writes its dump"
            continue
        dumps.mkdir(parents=True, exist_ok=True)
        file = dumps / f"{tool}.{ENDINGS[kind]}"
        file.touch(0o600)  # it holds whatever the tool knows
        file.write_bytes(kept.get(backup_store.object_key(digest)) or b"")
        yield f"{tool}'s database, with {tool} stopped: {REMEDIES[kind].format(file=file)}"


def _lacking(manifest: Manifest, places: dict[str, Lake]) -> Iterator[str]:
    if "" in manifest.objects and "" not in places:
        yield f"MLflow's artifacts are in the backup; {ARTIFACTS} says where to"
    yield from (f"not in this backup: {one}" for one in manifest.missing)
    yield f"made by the code {manifest.code}; `python -m include verify` says if all is as recorded"
