"""A request that was answered is in the log, and comes to the source's table exactly once."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import socketpair
from typing import Any

import pytest

from demo.process import until
from include.environment import Endpoint
from include.errors import SettingError, SpecError, StoreUnavailable
from include.ingest.pipeline import ingest
from include.serve import follower
from include.serve import request_log as logs
from include.serve.request_log import PREFIX, RequestLog
from include.serve.rows import RequestRefused
from include.serve.server import serve as run_server
from include.serve.service import ORIGIN, Service
from include.spec import UseCase
from include.storage.lake import Lake
from tests.features import parcels
from tests.score.conftest import LAST, Deploy
from tests.serve.conftest import FEATURES, KEY, ROW, Serve
from tests.serve.server import PATIENCE, Load

NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)  # the decision is at 17:00


class Hands:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """Return what they show."""
        return self.now


@pytest.fixture
def clock() -> Hands:
    """At noon."""
    return Hands()


@pytest.fixture
def request_log(lake: Lake, use: UseCase, tmp_path: Path, clock: Hands) -> RequestLog:
    """A log whose thread isn't started, so that a test brings its rows to the lake step by step."""
    return RequestLog(tmp_path / "log", lake, use, clock)


def objects(lake: Lake) -> dict[str, list[Any]]:
    """Return the rows of each partition's objects."""
    rows: dict[str, list[Any]] = {}
    for key in lake.keys(PREFIX):
        rows.setdefault(key.split("/")[1], []).extend(json.loads(lake.get(key) or b""))
    return rows


def test_a_kill_in_the_middle_loses_no_answered_request(
    lake: Lake, logging_use: UseCase, deploy: Deploy, serve: Serve, tmp_path: Path
) -> None:
    """After kill -9 under load, and a second server that stops, the source has each answered row once."""
    deploy(lake, "1", LAST)
    usecases, folder = str(logging_use.folder.parent), str(tmp_path / "log")
    answers: list[dict[str, Any]] = []
    with serve("--log-requests", folder, EVERGREEN_USECASES=usecases) as server:
        with Load(server, ROW) as load:
            assert until(lambda: sum(map(len, load.answers)) > 300, PATIENCE)
            server.process.kill()
        answers += [answer for each in load.answers for _, answer in each]
    assert load.statuses == {200}
    assert len(load.errors) == len(load.answers)  # every client was cut off
    with serve("--log-requests", folder, EVERGREEN_USECASES=usecases) as server:
        answers += [server.post(rows)[1] for rows in ([ROW], [FEATURES], [KEY])]
        assert server.metric("evergreen_serve_logged_rows_total") == 3
        assert server.metric("evergreen_serve_log_pending_bytes") > 0
        server.stop()
    assert [path.name for path in (tmp_path / "log" / "parcels").iterdir() if path.stat().st_size] == []
    partitions = sorted(objects(lake))

    def connect(name: str) -> Endpoint:
        return Endpoint(name, f"{lake.uri}/{PREFIX}")

    for _ in range(2):
        for outcome in ingest(lake, logging_use, "requests", partitions, connect):
            assert (outcome.outcome, outcome.quarantined, outcome.duplicates) == ("published", 0, 0)
    rows = lake.rows("validated_requests")
    ids = Counter(row["request_row"] for row in rows)
    answered = [f"{a['request']}-{place}" for a in answers for place, _ in enumerate(a["predictions"])]
    assert set(ids.values()) == {1}
    assert set(answered) <= set(ids)
    assert len(ids) - len(answered) <= len(load.answers)  # what each client hadn't read yet
    by_id = {row["request_row"]: row for row in rows}
    for answer in answers:
        for place, one in enumerate(answer["predictions"]):
            row = by_id[f"{answer['request']}-{place}"]
            logged = {f"served_{name}" if name in ORIGIN else name: value for name, value in one.items()}
            assert {name: row[name] or "" for name in logged} == logged
    with_key, without, by_key = (by_id[name] for name in answered[-3:])
    assert {name: with_key[name] for name in ROW} == ROW
    assert (without["parcel"], without["depot"], by_key["weight"] is None) == (None, "north", False)
    assert (by_key["features_partition"], by_key["for_partition"]) == (LAST, LAST)


def test_a_row_is_logged_before_its_answer(lake: Lake, request_log: RequestLog, tmp_path: Path) -> None:
    """It is in the file once `append` returns, and in the lake once the file was sealed and put."""
    request_log.append([{"id": "a"}, {"id": "b"}])
    file = tmp_path / "log" / "parcels" / "open.jsonl"
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["a", "b"]
    request_log._seal()
    assert objects(lake) == {}
    assert request_log._put_sealed()
    assert objects(lake) == {LAST: [{"id": "a"}, {"id": "b"}]}
    assert request_log.health() == {"pending_bytes": 0, "error": ""}


def test_features_that_came_are_about_the_partition_that_was_decided_last(
    lake: Lake, use: UseCase, request_log: RequestLog, clock: Hands, tmp_path: Path
) -> None:
    """Until the decision that is the one before, and from then on the newest."""
    service = Service(lake, use, clock, request_log)
    service.follower.refresh()
    body = json.dumps({"rows": [FEATURES]}).encode()
    for clock.now in (NOON + timedelta(hours=hours, seconds=-1) for hours in (0, 5)):
        service.answer(body)
    clock.now = NOON + timedelta(hours=5)
    service.answer(body)
    rows = map(json.loads, (tmp_path / "log" / "parcels" / "open.jsonl").read_text().splitlines())
    partitions = [(row["for_partition"], row["features_partition"]) for row in rows]
    assert partitions == [("2024-03-09", None), ("2024-03-09", None), (LAST, None)]


def test_one_row_is_an_object_that_can_be_ingested(lake: Lake, request_log: RequestLog) -> None:
    """A list of one, since a single JSON object would be none."""
    request_log.append([{"id": "a"}])
    request_log._seal()
    request_log._put_sealed()
    (key,) = lake.keys(PREFIX)
    assert lake.get(key) == b'[{"id": "a"}]\n'


def test_a_put_that_was_cut_off_is_not_repeated(
    lake: Lake, request_log: RequestLog, clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object may be there though nobody heard of it, and stays the only one, also after the decision."""
    request_log.append([{"id": "a"}])
    request_log._seal()
    put = Lake.create

    def cut_off(self: Lake, key: str, data: bytes) -> bool:
        put(self, key, data)
        raise StoreUnavailable("the lake", found="no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "create", cut_off)
        assert not request_log._put_sealed()
        assert request_log.health()["error"] == "the lake: found no answer"
        assert request_log.health()["pending_bytes"] > 0
    clock.now += timedelta(days=1)
    assert request_log._put_sealed()
    assert objects(lake) == {LAST: [{"id": "a"}]}
    assert request_log.health() == {"pending_bytes": 0, "error": ""}


@pytest.mark.parametrize(
    ("minutes", "partition"),
    [(-10, LAST), (-6, LAST), (-5, "2024-03-11"), (0, "2024-03-11"), (1, "2024-03-11")],
)
def test_a_file_belongs_to_a_partition_whose_decision_is_not_near(
    lake: Lake, request_log: RequestLog, clock: Hands, minutes: int, partition: str
) -> None:
    """Within five minutes of the decision it belongs to the next one, whose ingest can't have begun."""
    clock.now = NOON + timedelta(hours=5, minutes=minutes)
    request_log.append([{"id": "a"}])
    request_log._seal()
    request_log._put_sealed()
    assert list(objects(lake)) == [partition]


def test_what_the_lake_did_not_take_in_time_comes_to_the_next_partition(
    lake: Lake, request_log: RequestLog, clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that was ingested without it would never be looked at again."""
    request_log.append([{"id": "a"}])
    request_log._seal()

    def fail(self: Lake, key: str, data: bytes) -> bool:
        raise StoreUnavailable("the lake", found="no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "create", fail)
        request_log._put_sealed()
    clock.now += timedelta(hours=4, minutes=57)
    request_log._put_sealed()
    assert objects(lake) == {"2024-03-11": [{"id": "a"}]}


def test_a_request_that_cannot_be_logged_is_refused(
    lake: Lake, request_log: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves no half of it, the rows before and after stay whole, and /health says why."""
    request_log.append([{"id": "a"}])
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        with pytest.raises(
            RequestRefused, match="expected a file that can be written, but found 5 of 12 bytes"
        ) as error:
            request_log.append([{"id": "b"}])
    assert error.value.status == 503
    assert request_log.health()["error"] == "requests are refused: 5 of 12 bytes were written"
    request_log.append([{"id": "c"}])
    assert request_log.health()["error"] == ""
    request_log._seal()
    request_log._put_sealed()
    assert objects(lake) == {LAST: [{"id": "a"}, {"id": "c"}]}


@pytest.mark.parametrize("gone", ["lake", "lake/parcels", "lake/parcels/tables"])
def test_a_lake_that_is_gone_is_an_error_and_the_log_makes_no_other_one(
    lake: Lake,
    use: UseCase,
    deploy: Deploy,
    request_log: RequestLog,
    clock: Hands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone: str,
) -> None:
    """The loaded models serve, health says why, and the log waits in its folder until the volume is back."""
    monkeypatch.setattr(follower, "POLL", 0.05)
    monkeypatch.setattr(logs, "RETRY", 0.05)
    deploy(lake, "1", LAST)
    service = Service(lake, use, clock, request_log)
    service.start()
    assert until(lambda: service.follower.current is not None, PATIENCE)
    body = json.dumps({"rows": [ROW]}).encode()
    (tmp_path / gone).rename(tmp_path / "away")
    assert service.answer(body).predictions[0]["version"] == "1"
    request_log._seal()
    why = "expected a folder that exists" if gone == "lake" else "which was read before, but found none"
    assert until(lambda: why in service.health()["ledger"]["error"], PATIENCE)
    assert until(lambda: why in service.health()["log"]["error"], PATIENCE)
    assert b"evergreen_serve_following 0.0" in service.metrics_text()
    assert service.answer(body).predictions[0]["version"] == "1"
    assert not (tmp_path / gone).exists()
    (tmp_path / "away").rename(tmp_path / gone)
    assert until(lambda: not service.health()["ledger"]["error"], PATIENCE)
    service.stop()
    assert [len(rows) for rows in objects(lake).values()] == [2]


def test_a_server_of_a_lake_whose_folder_is_missing_does_not_start(
    use: UseCase, clock: Hands, tmp_path: Path
) -> None:
    """It could serve constants only; the error names the folder, which isn't created."""
    missing = tmp_path / "not mounted"
    lake = Lake("parcels", str(missing))
    with pytest.raises(StoreUnavailable, match=r"EVERGREEN_LAKE: .* that exists, .*not mounted\); mount"):
        run_server(lake, use, "127.0.0.1", 0, tmp_path / "log", clock, pytest.fail)
    assert not missing.exists()


@pytest.mark.parametrize("broken", ["folder moved", "disk full"])
def test_a_file_that_cannot_be_sealed_stays_open(
    lake: Lake, request_log: RequestLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Rows go on into it, and into no other file or connection; all of them come to the lake later."""
    folder, elsewhere = tmp_path / "log", tmp_path / "elsewhere"
    request_log.append([{"id": "a"}])
    with monkeypatch.context() as patch:
        if broken == "folder moved":
            folder.rename(elsewhere)
        else:
            patch.setattr(os, "open", full_disk)
        with pytest.raises(OSError, match=r"No such file|No space left"):
            request_log._seal()
    server, client = socketpair()  # a connection gets the number of the last descriptor that was closed
    with server, client:
        request_log.append([{"id": "b"}])
        server.close()
        assert client.recv(100) == b""
    if broken == "folder moved":
        elsewhere.rename(folder)
    request_log.append([{"id": "c"}])
    request_log._seal()
    assert request_log._put_sealed()
    assert objects(lake) == {LAST: [{"id": "a"}, {"id": "b"}, {"id": "c"}]}


def full_disk(*arguments: Any) -> int:
    """Fail as the creation of a file does on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_odd_file_keeps_no_other_one_from_the_lake(
    lake: Lake, use: UseCase, tmp_path: Path, clock: Hands
) -> None:
    """A copy that a person made is left alone; /health shows a file that can't be put, while it is there."""
    folder = tmp_path / "log" / "parcels"
    (folder / f"{LAST}.{'0' * 32}.jsonl").mkdir(parents=True)  # sorts before the file that can be put
    (folder / "copy.jsonl").write_text('{"id": "a"}\n')
    request_log = RequestLog(tmp_path / "log", lake, use, clock)
    request_log.append([{"id": "a"}])
    request_log._seal()
    request_log.start()
    assert until(lambda: objects(lake) == {LAST: [{"id": "a"}]}, PATIENCE)
    assert until(lambda: "Is a directory" in request_log.health()["error"], PATIENCE)
    (folder / f"{LAST}.{'0' * 32}.jsonl").rmdir()
    request_log.append([{"id": "b"}])
    request_log.stop()
    assert Counter(row["id"] for row in objects(lake)[LAST]) == {"a": 1, "b": 1}
    assert request_log.health() == {"pending_bytes": 0, "error": ""}
    assert (folder / "copy.jsonl").exists()


def test_a_step_that_fails_keeps_no_other_one_from_being_taken(
    lake: Lake, request_log: RequestLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever flushing and sealing raise, what was sealed comes to the lake, and /health says why."""
    request_log.append([{"id": "a"}])
    request_log._seal()
    request_log.append([{"id": "b"}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        patch.setattr(request_log, "_target", lambda: 1 / 0)
        patch.setattr("include.serve.request_log.SEAL_SECONDS", 0.0)
        request_log.start()
        assert until(lambda: objects(lake) == {LAST: [{"id": "a"}]}, PATIENCE)
        assert request_log.health()["error"] == (
            "[Errno 28] No space left on device; ZeroDivisionError: division by zero"
        )
    request_log.stop()
    assert Counter(row["id"] for row in objects(lake)[LAST]) == {"a": 1, "b": 1}


@pytest.mark.parametrize("name", ["2024-03-10", "2024-03-10T1200Z", "2024-99-99"])
def test_a_file_of_another_schedule_comes_to_a_partition_of_this_one(
    lake: Lake, tmp_path: Path, clock: Hands, name: str
) -> None:
    """The schedule was changed while the file was waiting; its rows are in the next partition."""
    mondays = {"batch": "0 18 * * 1", "training": "0 20 * * 0", "timezone": "UTC", "start": "2024-03-04"}
    weekly = parcels.spec(tmp_path / "weekly", schedule=mondays)
    folder = tmp_path / "log" / "parcels"
    folder.mkdir(parents=True)
    (folder / f"{name}.{'0' * 32}.jsonl").write_text('{"id": "a"}\n')
    request_log = RequestLog(tmp_path / "log", lake, weekly, clock)
    assert request_log._put_sealed()
    assert objects(lake) == {"2024-03-11": [{"id": "a"}]}


def test_the_end_that_a_kill_cut_off_is_left_out(
    lake: Lake, use: UseCase, tmp_path: Path, clock: Hands
) -> None:
    """Such a row was never answered; those before it were."""
    folder = tmp_path / "log" / "parcels"
    folder.mkdir(parents=True)
    (folder / "open.jsonl").write_text('{"id": "a"}\n{"id": "b')
    request_log = RequestLog(tmp_path / "log", lake, use, clock)
    request_log.start()
    request_log.stop()
    assert objects(lake) == {LAST: [{"id": "a"}]}


def test_a_folder_has_one_server(
    lake: Lake, use: UseCase, request_log: RequestLog, tmp_path: Path, clock: Hands
) -> None:
    """A second one doesn't start; a folder that can't be written is an error as well."""
    with pytest.raises(
        SettingError, match="expected a folder of this server alone, but found another server's"
    ):
        RequestLog(tmp_path / "log", lake, use, clock)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"alone, but found .*Not a directory"):
        RequestLog(tmp_path / "file", lake, use, clock)


def test_a_feature_with_a_name_of_the_logs_own_is_refused(lake: Lake, tmp_path: Path, clock: Hands) -> None:
    """One column can't be two."""
    features = {"spine": "orders", "lookback": 4, "numeric": ["weight", "served_version"]}
    other = parcels.spec(tmp_path / "other", features=features)
    with pytest.raises(SpecError, match="found served_version; rename them, or serve without --log-requests"):
        RequestLog(tmp_path / "log", lake, other, clock)
