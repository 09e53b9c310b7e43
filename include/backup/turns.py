"""Backups are made side by side, and what is old is removed while nobody makes one.

Whoever is at work says so by an object of its own before it looks who else is, so of two that begin at once
at least one sees the other. One who backs up waits until nobody removes; one who removes waits for everybody,
and is in nobody's way meanwhile. Each object is written again every `BEAT` seconds: one that is `SILENT`
seconds old is of a process that was killed. Ages are told by the store's clock alone.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from uuid import uuid4

from include.errors import StoreUnavailable
from include.lake import Lake

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
def turn(kept: Lake, act: Act) -> Iterator[Turn]:
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
