"""Logs requests with their predictions to the lake, as objects that a source of the use case ingests.

A row is written to a file of this machine before its request is answered. So a kill of the process loses
nothing that was answered; a crash of the machine loses at most what was written in its last second, since
the file is flushed to the disk each second. A file that is full or old is sealed: from then on its name has
the partition that is to ingest it. It is put into the lake under that name, if there is no such object, and
removed. So each row is in exactly one object, however often the server is killed.

A sealed file belongs to the first partition whose decision is at least five minutes away. A put that comes
too late for that moves the file to the next partition, unless the object is there already; so does one after
the schedule was changed. So a partition's objects are complete at its decision.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from include.errors import EvergreenError, PartitionError, SettingError, SpecError, StoreUnavailable
from include.score.predictions import ACTION
from include.serve.rows import RequestRefused
from include.spec import UseCase
from include.storage.lake import Lake

log = logging.getLogger(__name__)
PREFIX = "requests"  # of the objects' keys in the use case's part of the lake
SEAL_BYTES, SEAL_SECONDS = 8 << 20, 60.0  # a file that is larger or older is sealed
SEAL_MARGIN = timedelta(minutes=5)  # between sealing a file and the decision of its partition, at least
PUT_MARGIN = timedelta(minutes=4)  # between a put and that decision, at least; its retries take less
SEALED_NAME = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{4}Z)?\.[0-9a-f]{32}\.jsonl")  # its partition and an ID
OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
TICK, RETRY = 1.0, 10.0  # seconds between two flushes, and between two tries of what failed
# the columns of a logged row beside the key's, the features' and the prediction's
COLUMNS = (
    "request_row",  # the request and the row's place in it; of a shadow the model too
    "request",
    "requested_at",
    "for_partition",
    "features_partition",
    "served_by",
    "served_version",
    "served_model",
    "served_reason",
)


class RequestLog:
    """The log of one server.

    Parameters
    ----------
    folder : on a disk that outlives the process; the use case's files are in a folder of its name.
    clock : returns the time, with a time zone.

    Raises
    ------
    SettingError
        if the folder can't be written, or another server writes to it.
    SpecError
        if a feature or a key has the name of one of the log's own columns.
    """

    def __init__(self, folder: Path, lake: Lake, spec: UseCase, clock: Callable[[], datetime]) -> None:
        own = {*COLUMNS, "label", "prediction", ACTION, *spec.problem.outputs}
        if same := sorted(own & {*spec.key, *spec.features.columns}):
            raise SpecError(
                f"{spec.name}: --log-requests",
                required="features and keys with other names than the log's own columns",
                found=", ".join(same),
                remedy="rename them, or serve without --log-requests",
            )
        self._folder, self._lake, self._spec, self._clock = folder / spec.name, lake, spec, clock
        self._writing, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        # by step, why requests are refused or rows stay in the folder; empty if the step succeeded last time
        self._errors = {"write": "", "flush": "", "seal": "", "put": ""}
        self._require_lake: Callable[[], None] = lake.require_address
        self._lock_folder()
        self._open()
        self._seal()  # what a killed server left

    def _lock_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._locked = (self._folder / "lock").open("w")
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found = "another server's" if isinstance(error, BlockingIOError) else str(error)
            raise SettingError(
                f"--log-requests {self._folder}",
                required="a folder of this server alone",
                found=found,
                remedy="give each server a folder of its own",
            ) from None

    @property
    def _file(self) -> Path:
        return self._folder / "open.jsonl"

    def _open(self) -> None:
        """Open the file that rows are written to, without the end of a row that a kill cut off."""
        self._descriptor = os.open(self._file, OPEN_FLAGS, 0o600)
        data = self._file.read_bytes()
        self._size, self._since = data.rfind(b"\n") + 1, time.monotonic()
        os.ftruncate(self._descriptor, self._size)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows; once this returns, a kill of the process doesn't lose them.

        Raises
        ------
        RequestRefused
            with 503 if they can't be written, such as to a full disk; then none of them is.
        """
        data = "".join(f"{json.dumps(row, default=str)}\n" for row in rows).encode()
        with self._writing:
            try:
                written = os.write(self._descriptor, data)
                if written != len(data):
                    raise OSError(f"{written} of {len(data)} bytes were written")
            except OSError as error:
                os.ftruncate(self._descriptor, self._size)
                self._errors["write"] = f"requests are refused: {error.strerror or error}"
                log.error("%s: requests are refused, since they can't be logged: %s", self._spec.name, error)
                raise RequestRefused(
                    503,
                    "request log",
                    required="a file that can be written",
                    found=error.strerror or str(error),
                    remedy="free space in the folder of --log-requests",
                ) from None
            self._size, self._errors["write"] = self._size + len(data), ""

    # the thread that brings the rows to the lake

    def start(self, require_lake: Callable[[], None]) -> None:
        """Begin to put sealed files into the lake.

        Parameters
        ----------
        require_lake : raises while the lake isn't there; then a put would create another one.
        """
        self._require_lake = require_lake
        self._thread.start()

    def stop(self) -> None:
        """Put what there is into the lake; what can't be put now is put after the next start."""
        self._stop.set()
        self._thread.join()
        self._attempt("seal", self._seal)
        self._put_sealed()
        self._locked.close()

    def _run(self) -> None:
        wait = TICK
        while not self._stop.wait(wait):
            self._attempt("flush", lambda: os.fsync(self._descriptor))
            age = time.monotonic() - self._since
            if self._size >= SEAL_BYTES or age >= SEAL_SECONDS:
                self._attempt("seal", self._seal)
            wait = TICK if self._put_sealed() else RETRY

    def _attempt(self, step: str, take: Callable[[], None]) -> bool:
        """Take a step and return whether that is done; whatever fails, the other steps are taken too."""
        error = ""
        try:
            take()
        except (EvergreenError, OSError) as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("%s: requests can't be brought to the lake", self._spec.name)
            error = f"{type(failure).__name__}: {failure}"
        if error and error != self._errors[step]:
            log.warning("%s: requests stay in %s: %s", self._spec.name, self._folder, error)
        self._errors[step] = error
        return not error

    def _seal(self) -> None:
        """Close the file under a name of its own, and open another one.

        Raises
        ------
        OSError
            if that can't be done, such as on a full disk; then rows go on into the same file.
        """
        sealed = self._folder / f"{self._target()}.{uuid.uuid4().hex}.jsonl"
        with self._writing:
            self._since = time.monotonic()
            if not self._size:
                return
            os.fsync(self._descriptor)
            self._file.rename(sealed)
            try:
                descriptor = os.open(self._file, OPEN_FLAGS, 0o600)
            except OSError:
                sealed.rename(self._file)
                raise
            # closed last, since a connection of a client may get the number of a closed descriptor
            sealed_descriptor, self._descriptor, self._size = self._descriptor, descriptor, 0
            os.close(sealed_descriptor)
        self._sync_folder()

    def _target(self) -> str:
        """Return the partition that is to ingest a file that is sealed now."""
        clock = self._spec.clock
        return clock.shift(clock.newest(self._clock() + SEAL_MARGIN), 1)

    def _sealed(self) -> list[Path]:
        """Return the sealed files; whatever else is in the folder, such as a copy, stays there."""
        return sorted(path for path in self._folder.glob("*.jsonl") if SEALED_NAME.fullmatch(path.name))

    def _put_sealed(self) -> bool:
        """Put every sealed file into the lake; return whether that is done."""
        return self._attempt("put", self._put_each)

    def _put_each(self) -> None:
        failures = []
        if files := self._sealed():
            self._require_lake()
        for file in files:
            try:
                self._put(file)
            except StoreUnavailable:  # the other files would wait for it as long, and keep rows from the disk
                raise
            except Exception as failure:  # of this file alone
                failures.append(failure)
        if failures:
            raise failures[0]

    def _put(self, file: Path) -> None:
        if self._lake.size(_key(file)) is None:  # else an earlier put was cut off after it had succeeded
            target, _, name = file.name.partition(".")
            if self._is_late(target):
                file = file.rename(self._folder / f"{self._target()}.{name}")
                self._sync_folder()
            lines = file.read_bytes().splitlines()
            self._lake.create(_key(file), b"[" + b",\n".join(lines) + b"]\n")
        file.unlink()

    def _is_late(self, target: str) -> bool:
        """Return whether a partition takes no more objects, or the schedule has changed and lacks it."""
        try:
            return self._spec.clock.decision_time(target) - self._clock() < PUT_MARGIN
        except PartitionError:
            return True

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def health(self) -> dict[str, Any]:
        """Return how many bytes aren't in the lake yet, and why, or why requests are refused."""
        waiting = 0
        for path in self._sealed():
            try:
                waiting += path.stat().st_size
            except FileNotFoundError:  # it was put meanwhile
                continue
        return {
            "pending_bytes": self._size + waiting,
            "error": "; ".join(filter(None, self._errors.values())),
        }


def _key(file: Path) -> str:
    """Return the object's key of a sealed file."""
    target, name, _ = file.name.split(".")
    return f"{PREFIX}/{target}/{name}.json"
