"""Old backups go and nothing else does: killed anywhere, beside others, or with a damaged one among them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import BackupError, SettingError, StoreUnavailable
from include.ops import backup as write
from include.ops import backup_store
from include.ops import prune as pruning
from include.ops import restore as restoring
from include.ops.backup import backup
from include.ops.backup_store import Manifest, Objects, lock_store
from include.ops.prune import prune, surplus_backups
from include.ops.restore import restore, verify_backup, verify_manifest
from include.ops.upkeep import vacuum
from include.storage.compaction import compact
from include.storage.lake import Lake
from tests.ops.backup.conftest import NOW, Clinic, content, cut_short, flip
from tests.warm import stand_in

KILLED = """
import os, signal
import obstore
from include.ops.prune import prune
from include.storage.lake import Lake

real, left = obstore.delete, [{after}]

def delete(store, paths):
    for path in paths:
        if not path.startswith("locks"):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        real(store, [path])

obstore.delete = delete
prune(Lake("backups", "{safe}"), 1)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to wait looks again soon, and gives up at once."""
    monkeypatch.setattr(backup_store, "PAUSE", 0.01)
    monkeypatch.setattr(backup_store, "WAIT", 0)


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    """The place of the backups."""
    return Lake("backups", str(tmp_path / "safe"))


def a_lake(folder: Path, number: int, usecase: str = "usecase") -> Lake:
    """Return a lake with a row that is this number, and an object that only its backup will hold."""
    lake = Lake(usecase, str(folder / "lake"))
    lake.publish("t", pa.table({"n": pa.array([number])}), {"n": number})
    lake.replace("state/newest", f"{usecase} {number}".encode())
    return lake


def taken(folder: Path, store: Lake, numbers: range, usecase: str = "usecase") -> list[str]:
    """Back up a lake at each of some moments, and return the names."""
    return [copy(a_lake(folder, number, usecase), store, number) for number in numbers]


def copy(lake: Lake, store: Lake, second: int) -> str:
    """Back up a lake at this second, and no database."""
    return backup([lake], store, now=NOW + timedelta(seconds=second), connect=nobody).name


def nobody(name: str) -> None:
    """Give the address of no database."""
    raise SettingError(name)


def sound(store: Lake) -> list[str]:
    """Return the names of the backups, each of which was read whole."""
    for name in backup_store.backup_names(store):
        verify_manifest(store, backup_store.load_manifest(store, name))
    return backup_store.backup_names(store)


def unnamed(store: Lake) -> set[str]:
    """Return the objects that no backup names."""
    manifests = [backup_store.load_manifest(store, name) for name in backup_store.backup_names(store)]
    named = {backup_store.object_key(digest) for one in manifests for digest in one.digests(one.objects)}
    return set(store.keys("objects")) - named


def test_the_newest_stay_whole_and_what_only_old_ones_held_is_gone(tmp_path: Path, store: Lake) -> None:
    """Of five two stay, every byte of them, and no object more; a restore of the older one is its moment."""
    names = taken(tmp_path, store, range(3))
    names.append(copy(a_lake(tmp_path, 3), store, 3))
    then = content(Lake("usecase", str(tmp_path / "lake")))
    names.append(copy(a_lake(tmp_path, 4), store, 4))
    before = len(store.keys("objects"))
    killed = tmp_path / "safe" / "backups" / "objects" / f"{'cd' * 32}#1"  # of a put; no listing has it
    killed.write_bytes(b"half")
    os.utime(killed, (0, 0))
    done = prune(store, 2)
    assert done.backups == tuple(names[:3])
    assert sound(store) == names[3:]
    assert unnamed(store) == set()
    assert done.objects == before - len(store.keys("objects")) > 0
    assert store.keys(backup_store.PREFIX) == []
    assert not killed.exists()
    shutil.rmtree(tmp_path / "lake")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
        restore(store, names[3])
    assert content(Lake("usecase", str(tmp_path / "lake"))) == then
    assert prune(store, 2).backups == ()


@pytest.mark.full
def test_what_a_kept_backup_holds_outlives_the_lakes_own_cleaning(home: Clinic, store: Lake) -> None:
    """A backup is a copy: when upkeep has removed every old file of the lake, all of it comes back."""
    lake = home.lake
    then, before = content(lake), set(lake.keys("tables"))
    done = backup([lake], store, now=NOW, connect=home.connect)
    for table in lake.tables():
        compact(lake, table)
        vacuum(lake, table, 0)
    assert before - set(lake.keys("tables"))
    prune(store, 1)
    shutil.rmtree(home.folder / "lake")
    restore(store, done.name)
    assert content(home.lake) == then


def test_backups_of_one_use_case_push_out_none_of_another(tmp_path: Path, store: Lake) -> None:
    """However often one is backed up by hand, the newest of the other stay."""
    other = taken(tmp_path, store, range(2), "other")
    often = taken(tmp_path, store, range(2, 7))
    assert prune(store, 2).backups == tuple(often[:3])
    assert sound(store) == [*other, *often[3:]]


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_the_newest_of_everything_never_go(held: list[dict[str, bool]], keep: int) -> None:
    """The newest one and the newest so many with objects of each use case stay, and no others."""
    one: Objects = {"key": ("digest", "1 mark")}
    objects = [{part: one if some else {} for part, some in parts.items()} for parts in held]
    manifests = {f"{number:02}": Manifest("", "", "", {}, of, {}, []) for number, of in enumerate(objects)}
    stay = {
        name for part in "abc" for name in [n for n in manifests if manifests[n].objects.get(part)][-keep:]
    }
    assert surplus_backups(manifests, keep) == [
        name for name in manifests if name not in stay | {max(manifests)}
    ]


@pytest.mark.full
@pytest.mark.parametrize("after", [0, 1, 3])
def test_killed_anywhere_what_stays_is_whole_and_the_next_one_ends_it(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Before its first removal, between manifests, or among objects: `kill -9` leaves whole backups."""
    names = taken(tmp_path, store, range(3))
    script = KILLED.format(after=after, safe=tmp_path / "safe")
    killed = subprocess.run(
        [stand_in(), "-c", script], cwd=Path(__file__).parents[3], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert sound(store) == names[min(after, 2) :]
    (left,) = store.keys(f"{backup_store.PREFIX}/exclusive")
    with pytest.raises(StoreUnavailable, match=f"found {left}.*killed"):
        prune(store, 1)  # who knows if it lives
    with pytest.raises(StoreUnavailable, match="expected no other process that prunes"):
        copy(a_lake(tmp_path, 3), store, 3)
    age(tmp_path, left)
    assert copy(a_lake(tmp_path, 3), store, 3) == backup_store.backup_names(store)[-1]
    prune(store, 1)
    assert (len(sound(store)), unnamed(store)) == (1, set())


def age(tmp_path: Path, key: str) -> None:
    """Let an object be as old as one of a process that is dead."""
    file = tmp_path / "safe" / "backups" / key
    then = file.stat().st_mtime - backup_store.EXPIRED - 1
    os.utime(file, (then, then))


def test_a_backup_that_is_being_written_keeps_its_objects(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its objects have no name yet: whoever prunes meanwhile gives up, and nothing is gone."""
    taken(tmp_path, store, range(2))
    real = write._dump_databases

    def while_writing(*given: object) -> object:
        before = store.keys("objects")
        assert unnamed(store)
        with pytest.raises(
            StoreUnavailable,
            match=r"expected no other process that backs up, restores or prunes, but found locks/shared",
        ):
            prune(store, 1)
        assert store.keys("objects") == before
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(write, "_dump_databases", while_writing)
        copy(a_lake(tmp_path, 2), store, 2)
    assert len(sound(store)) == 3


@pytest.mark.parametrize("reads", [restore, verify_backup])
def test_a_backup_that_is_being_restored_stays(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch, reads: Callable[[Lake, str], object]
) -> None:
    """Also an old one: whoever prunes meanwhile gives up, and the next prune isn't held up."""
    names = taken(tmp_path, store, range(2))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "new"))
    tried = []

    def while_reading(*given: object) -> int:
        with pytest.raises(
            StoreUnavailable, match="expected no other process that backs up, restores or prunes"
        ):
            prune(store, 1)
        tried.append(given)
        return verify_manifest(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(restoring, "verify_manifest", while_reading)
    reads(store, names[0])
    assert len(tried) == 1
    assert Lake("usecase", str(tmp_path / "new")).get("state/newest") == (
        b"usecase 0" if reads is restore else None
    )
    assert prune(store, 1).backups == (names[0],)


def test_a_backup_waits_for_a_prune_and_then_goes_on(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a prune is about to remove isn't taken for there; what is waited for is reported once."""
    monkeypatch.setattr(backup_store, "PAUSE", 0.01)
    monkeypatch.setattr(backup_store, "WAIT", 60)
    began = datetime.now(UTC)
    names = taken(tmp_path, store, range(2))
    real, waits = pruning._remove_unreferenced, threading.Event()
    look = backup_store.StoreLock._conflicts

    def looks(lock: backup_store.StoreLock, own: str) -> dict[str, datetime]:
        found = look(lock, own)
        if lock.mode == "shared":
            waits.set()
        return found

    def slow(*given: object) -> object:
        waits.clear()
        later = pool.submit(copy, Lake("usecase", str(tmp_path / "lake")), store, 9)
        assert waits.wait(30)
        before = real(*given)  # type: ignore[arg-type]
        assert not later.done()
        return before

    monkeypatch.setattr(backup_store.StoreLock, "_conflicts", looks)
    monkeypatch.setattr(pruning, "_remove_unreferenced", slow)
    with ThreadPoolExecutor(1) as pool:
        assert prune(store, 1).backups == (names[0],)
    assert len(sound(store)) == 2
    (line,) = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    lock = re.escape(f"{store.uri}/locks/exclusive/")
    match = re.fullmatch(
        f"waiting for the process that has the lock {lock}[0-9a-f]+: until it ends, or until "
        r"(\d\d:\d\d:\d\d) UTC if it was killed, and for at most 1 minutes",
        line,
    )
    assert match
    left = datetime.strptime(match[1], "%H:%M:%S") - datetime.strptime(f"{began:%H:%M:%S}", "%H:%M:%S")
    assert 600 <= left.seconds <= 660


def test_backups_and_prunes_at_once_leave_only_whole_ones(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two back up and two prune, again and again: every backup that is left reads back."""
    monkeypatch.setattr(backup_store, "WAIT", 60)
    for number in range(2):
        copy(a_lake(tmp_path, 0, f"usecase{number}"), store, number)

    def backs_up(number: int) -> int:
        own, lakes = Lake("backups", str(tmp_path / "safe")), f"usecase{number}"
        return len([copy(a_lake(tmp_path, step, lakes), own, 10 * step + number) for step in range(1, 5)])

    def prunes(number: int) -> int:
        own = Lake("backups", str(tmp_path / "safe"))
        return sum(len(prune(own, 1).backups) for _ in range(4))

    with ThreadPoolExecutor(4) as pool:
        made, gone = pool.map(backs_up, range(2)), pool.map(prunes, range(2))
        assert sum(made) == 8
        assert sum(gone) > 0
    assert sound(store)
    prune(store, 1)
    assert (len(sound(store)), unnamed(store)) == (2, set())


def test_one_who_was_taken_for_dead_closes_no_backup(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that could say nothing for minutes, as on a machine that slept, doesn't end what it began."""
    names = taken(tmp_path, store, range(1))
    real = write._dump_databases

    def asleep(*given: object) -> object:
        monkeypatch.setattr(backup_store, "LOST", -1)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "_dump_databases", asleep)
    lake = a_lake(tmp_path, 1)
    with pytest.raises(StoreUnavailable, match="another backup may have started"):
        copy(lake, store, 1)
    assert backup_store.backup_names(store) == names


def test_a_pruner_that_was_stopped_for_long_removes_nothing_more(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup began meanwhile and counts on its objects, also if the first that wakes is the beat."""
    taken(tmp_path, store, range(3))
    sweep, clock = pruning._remove_unreferenced, backup_store._now

    def stopped(place: Lake, stay: dict[str, Manifest], lock: backup_store.StoreLock) -> object:
        monkeypatch.setattr(backup_store, "_now", lambda: clock() + 1200)
        age(tmp_path, lock.key)
        copy(a_lake(tmp_path, 1), store, 60)  # has bytes of the backup that just went
        lock.refresh()
        return sweep(place, stay, lock)

    monkeypatch.setattr(pruning, "_remove_unreferenced", stopped)
    with pytest.raises(StoreUnavailable, match="another backup may have started"):
        prune(store, 1)
    assert len(sound(store)) == 2


@pytest.mark.parametrize("damage", [flip, cut_short, Path.unlink])
@pytest.mark.parametrize("what", ["an object", "the manifest"])
def test_with_a_damaged_newest_nothing_goes_and_it_is_named(
    tmp_path: Path, store: Lake, what: str, damage: Callable[[Path], None]
) -> None:
    """A bit, the end or all of it: an older one may be the last that can be restored."""
    names = taken(tmp_path, store, range(3))
    objects = backup_store.load_manifest(store, names[-1]).objects["usecase"]
    own = backup_store.object_key(objects["state/newest"][0]) if what == "an object" else f"{names[-1]}.json"
    damage(tmp_path / "safe" / "backups" / own)
    before = store.keys("")
    if damage is Path.unlink and what == "the manifest":
        assert prune(store, 1).backups == (names[0],)  # there is no such backup
        assert sound(store) == [names[1]]
        return
    with pytest.raises(BackupError, match=f"{names[-1]}.*nothing was (removed|changed)"):
        prune(store, 1)
    assert store.keys("") == before


@pytest.mark.parametrize("what", ["a use case", "the artifacts", "a database"])
def test_with_a_damaged_newest_of_anything_nothing_goes(tmp_path: Path, store: Lake, what: str) -> None:
    """The newest backup holds none of it, and the older one that does is the last that can be restored."""
    digest = backup_store.store_object(store, b"what the newest holds", {})
    older = backup_store.store_object(store, b"what older ones hold", {})
    for name, held, size in (("2024-01-01T000000Z", older, 20), ("2024-01-02T000000Z", digest, 21)):
        objects = {"a use case": "other", "the artifacts": ""}
        of = {objects[what]: {"key": (held, f"{size} e")}} if what in objects else {}
        dumps = {} if what in objects else {"mlflow": ("sqlite", held)}
        backup_store.write_manifest(store, name, Manifest(name, "", "", {}, of, dumps, []))
    last = taken(tmp_path, store, range(1))[0]
    file = tmp_path / "safe" / "backups" / backup_store.object_key(digest)
    whole = file.read_bytes()
    flip(file)
    before = store.keys("")
    with pytest.raises(BackupError, match=r"of 2024-01-02T000000Z\) is damaged"):
        prune(store, 1)
    assert store.keys("") == before
    file.write_bytes(whole)
    done = prune(store, 1)
    assert done.backups == ("2024-01-01T000000Z",)
    assert done.verified == (last, len(backup_store.load_manifest(store, last).digests(["usecase"])) + 1)


def test_with_a_backup_dated_in_the_future_nothing_goes_until_it_has_its_own_date(
    tmp_path: Path, store: Lake
) -> None:
    """It would be taken for the newest for years, and the truly newest would go; named anew it restores."""
    names = taken(tmp_path, store, range(2))
    ahead = datetime.now(UTC) + timedelta(hours=1)
    name = copy(a_lake(tmp_path, 2), store, int((ahead - NOW).total_seconds()))
    names.append(copy(a_lake(tmp_path, 3), store, 3))
    before = store.keys("")
    with pytest.raises(BackupError, match=f"found one of {name}.*nothing was removed"):
        prune(store, 1)
    assert store.keys("") == before
    file = tmp_path / "safe" / "backups" / f"{name}.json"
    own = backup_store.backup_name(NOW + timedelta(seconds=2))
    file.rename(file.with_stem(own))
    assert prune(store, 2).backups == tuple(names[:2])
    assert sound(store) == [own, names[2]]
    copy(a_lake(tmp_path, 4), store, int((datetime.now(UTC) - NOW).total_seconds()))
    assert prune(store, 1).backups == (own, names[2])  # one of this very moment is none of the future


def test_the_next_backup_mends_what_the_lake_still_has_and_a_prune_follows(
    tmp_path: Path, store: Lake
) -> None:
    """An object that was cut short is copied anew, and then the old ones go."""
    names = taken(tmp_path, store, range(2))
    objects = backup_store.load_manifest(store, names[-1]).objects["usecase"]
    cut_short(tmp_path / "safe" / "backups" / backup_store.object_key(objects["state/newest"][0]))
    last = copy(Lake("usecase", str(tmp_path / "lake")), store, 5)
    assert prune(store, 1).backups == tuple(names)
    assert sound(store) == [last]


def test_an_object_that_is_written_again_while_it_is_copied_is_no_damage(
    tmp_path: Path, store: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup holds the bytes that were read, in their own size."""
    lake, real = a_lake(tmp_path, 0), Lake.get

    def late(place: Lake, key: str) -> bytes | None:
        if place is lake and key == "state/newest":
            lake.replace(key, b"another length")
        return real(place, key)

    monkeypatch.setattr(Lake, "get", late)
    name = copy(lake, store, 0)
    assert prune(store, 1).verified[0] == name


def test_no_backup_at_all_and_none_that_stays_are_refused(store: Lake) -> None:
    """Neither is a success."""
    with pytest.raises(BackupError, match="expected a complete backup, but found none"):
        prune(store, 1)
    with pytest.raises(
        BackupError, match="expected EVERGREEN_BACKUPS_KEPT of at least 1, but found 0; raise it"
    ):
        prune(store, 0)


@pytest.mark.parametrize(("value", "stay"), [("", 8), ("3", 3), ("0", 0), ("-1", None), ("many", None)])
def test_how_many_stay_is_declared(value: str, stay: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight unless somebody says otherwise; what isn't a number is refused."""
    monkeypatch.setenv("EVERGREEN_BACKUPS_KEPT", value)
    if stay is None:
        with pytest.raises(SettingError, match=r"EVERGREEN_BACKUPS_KEPT: expected a number"):
            backup_store.backups_to_keep()
    else:
        assert backup_store.backups_to_keep() == stay


def test_who_wants_to_remove_holds_up_nobody_while_waiting(tmp_path: Path, store: Lake) -> None:
    """Two back up side by side while a third waits to remove; then it is its turn."""
    with lock_store(store, "shared"):
        with pytest.raises(StoreUnavailable), lock_store(store, "exclusive"):
            pass
        with lock_store(store, "shared"):
            assert len(store.keys(backup_store.PREFIX)) == 2
    with lock_store(store, "exclusive") as lock:
        lock.require_valid()
        assert datetime.now(UTC) - store.last_modified(backup_store.PREFIX)[lock.key] < timedelta(minutes=5)
