"""Restore the lake of a backup to an empty address, and verify backups.

Every object is compared with its digest, and the databases' dumps are written, before the first object is.
Table logs are written after the data files, and the log of `partitions` last. An object marks each use case
as unfinished from before its first object until the end, and while it is there `Lake` refuses to read or
write anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from include.environment import lake_uri
from include.errors import PYTHON, BackupError
from include.ops import backup_store
from include.ops.backup import ARTIFACTS, ENDINGS, LOG, REMEDIES, open_address
from include.ops.backup_store import Manifest, Objects, lock_store
from include.references import digest_bytes
from include.storage.lake import RESTORING, Lake

RESTORE_AGAIN = "remove what was restored, stop everything that writes there, and restore again"


def restore(
    store: Lake, name: str, usecase: str | None = None, *, artifacts: str = "", dumps: Path | None = None
) -> list[str]:
    """Restore a backup, or one use case of it; return what was restored and what a person must do.

    Parameters
    ----------
    artifacts : the address for MLflow's artifacts, which must be empty; "": they aren't restored, as with
        one use case.
    dumps : a folder to write the database dumps to, for the databases' own tools.

    Raises
    ------
    BackupError
        when the backup is damaged, the address isn't empty or the dumps can't be written: nothing was
        restored.
    StoreUnavailable
        when a prune runs for too long: nothing was written.
    """
    with _locked_manifest(store, name) as manifest:
        return _restore(store, manifest, usecase, artifacts, dumps)


def verify_backup(store: Lake, name: str) -> int:
    """Verify every object of a backup, as `restore` does, and return how many there are."""
    with _locked_manifest(store, name) as manifest:
        return verify_manifest(store, manifest)


@contextmanager
def _locked_manifest(store: Lake, name: str) -> Iterator[Manifest]:
    """Yield a backup's manifest; meanwhile no prune removes its objects."""
    backup_store.load_manifest(store, name)  # if there is none, no lock creates the store's folder
    with lock_store(store, "shared"):
        yield backup_store.load_manifest(store, name)


def _restore(
    store: Lake, manifest: Manifest, usecase: str | None, artifacts: str, dumps: Path | None
) -> list[str]:
    names = [name for name in manifest.objects if name and usecase in (None, name)]
    if usecase is not None and not names:
        contained = ", ".join(name for name in manifest.objects if name)
        raise BackupError(
            f"backup {manifest.name}",
            required=usecase,
            found=f"only {contained or 'other parts'}",
            remedy="name one that it has, or another backup",
        )
    targets = {name: Lake(_require_safe(name), lake_uri()) for name in names}
    if artifacts and usecase is None and "" in manifest.objects:
        targets[""] = open_address(artifacts)
    for name, target in targets.items():
        _require_empty(target, ARTIFACTS if name == "" else "EVERGREEN_LAKE")
    verify_manifest(store, manifest, [*targets])
    dumped = list(_write_dumps(store, manifest, dumps))  # first: if it fails, no lake is left unfinished
    marked = [targets[name] for name in names]
    for target in marked:
        _mark_unfinished(target, manifest.name)
    for name, target in targets.items():
        _write(store, manifest.objects[name], target)
        _require_versions(target, manifest.versions.get(name, {}))
    restored = [f"{target.uri}: {len(manifest.objects[name]):,} objects" for name, target in targets.items()]
    for target in marked:
        target.remove([RESTORING])
    return [*restored, *dumped, *_remaining_steps(manifest, targets)]


def verify_manifest(store: Lake, manifest: Manifest, names: list[str] | None = None) -> int:
    """Verify the objects of a backup, or of some use cases in it, and return how many there are."""
    objects = manifest.digests(manifest.objects if names is None else names)
    return verify_objects(store, f"backup {manifest.name}", objects)


def verify_objects(store: Lake, subject: str, objects: Mapping[str, str]) -> int:
    """Read objects, compare each with its digest, and return how many there are.

    Parameters
    ----------
    objects : a description of each object, by its digest.
    """

    def problem(digest: str) -> str:
        data = store.get(backup_store.object_key(digest))
        if data is not None and digest_bytes(data) == digest:
            return ""
        state = "gone" if data is None else "damaged"
        return f"{store.uri}/{backup_store.object_key(digest)} ({objects[digest]}) is {state}"

    if problems := [text for text in backup_store.map_concurrently(problem, objects) if text]:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BackupError(
            subject,
            required=f"{len(objects):,} objects as they were written",
            found="; ".join(problems[:5]) + more,
            remedy="nothing was changed; use another backup, or if the lake still exists, remove the damaged "
            "object and back up again, which copies it again",
        )
    return len(objects)


def _require_safe(name: str) -> str:
    if not re.fullmatch(r"\w+", name):
        raise BackupError(
            f"use case {name!r}",
            required="letters, digits and _",
            found="something else",
            remedy="nothing was written; use another backup",
        )
    return name


def _require_empty(target: Lake, setting: str) -> None:
    if objects := target.sizes_and_etags():
        raise BackupError(
            target.uri,
            required="an empty address to restore to",
            found=f"{len(objects):,} objects, such as {min(objects)}",
            remedy=f"set {setting} to another address; remove these objects only if an interrupted restore "
            "left them" + ("; unset it to leave the artifacts as they are" if setting == ARTIFACTS else ""),
        )


def _mark_unfinished(target: Lake, backup: str) -> None:
    if not target.create(RESTORING, f"backup {backup}".encode()):
        raise BackupError(
            target.uri,
            required="no other restore in progress",
            found="one that has begun",
            remedy="wait until it has ended; if it was killed, remove all objects at this address, "
            "then restore again",
        )


def _write(store: Lake, objects: Objects, target: Lake) -> None:
    """Write the objects, then the tables' logs, and the log of `partitions` last."""

    def step(key: str) -> int:
        log = LOG.fullmatch(key)
        return 0 if log is None else 1 + (log[1] == "partitions")

    def write_object(key: str) -> None:
        digest = objects[key][0]
        data = store.get(backup_store.object_key(digest))
        if data is None or digest_bytes(data) != digest or not target.create(key, data):
            raise BackupError(
                f"{target.uri}/{key}",
                required="the bytes that were verified before, and no other writer",
                found="something else",
                remedy=RESTORE_AGAIN,
            )

    for current in range(3):
        backup_store.map_concurrently(write_object, [key for key in objects if step(key) == current])


def _require_versions(target: Lake, versions: dict[str, int]) -> None:
    """Check that the restored tables have the versions of the backup."""
    restored = {table: target.version(table) for table in versions}
    if restored != versions:
        raise BackupError(
            f"{target.uri}/tables",
            required=f"the tables' versions {versions}",
            found=f"{restored}",
            remedy=RESTORE_AGAIN,
        )


def _write_dumps(store: Lake, manifest: Manifest, dumps: Path | None) -> Iterator[str]:
    """Write the database dumps, and yield how to restore each."""
    for tool, (kind, digest) in manifest.databases.items():
        if dumps is None:
            yield f"{tool}'s database is in the backup; --dumps FOLDER writes its dump"
            continue
        file = dumps / f"{tool}.{ENDINGS[kind]}"
        try:
            dumps.mkdir(parents=True, exist_ok=True)
            file.touch(0o600)  # it may contain secrets
            file.write_bytes(store.get(backup_store.object_key(digest)) or b"")
        except OSError as error:
            raise BackupError(
                "--dumps",
                required="a folder for the database dumps that can be written to",
                found=str(error),
                remedy="nothing was restored yet; name another folder, and restore again",
            ) from None
        yield f"{tool}'s database, with {tool} stopped: {REMEDIES[kind].format(file=quote(str(file)))}"


def _remaining_steps(manifest: Manifest, targets: dict[str, Lake]) -> Iterator[str]:
    if "" in manifest.objects and "" not in targets:
        yield f"MLflow's artifacts aren't restored; a restore of all use cases does it if {ARTIFACTS} is set"
    yield from (f"not in this backup: {sentence}" for sentence in manifest.missing)
    yield f"made by the code {manifest.code}; check the restored lake with `{PYTHON} -m include verify`"
