"""The ledger `switches`: which model serves, and which are on trial, appended by compare-and-swap.

The newest switch in effect decides who serves a partition. A switch takes effect from a partition that
hasn't been served yet. In a trial, two models predict the same rows: shadow, canary and watch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from include.errors import PartitionError
from include.judge.judge import FORCED
from include.models.outputs import Constant
from include.spec import UseCase
from include.storage.lake import Lake, Row
from include.storage.schemas import SWITCHES

T = TypeVar("T")

# the kinds of switch, besides FORCED
PROMOTED, ROLLED_BACK = "promoted", "rolled back"
REFRESHED = "refreshed"  # a refit of the recipe that serves
REPLACED = "replaced"  # the champion was shown to be worse than a baseline; the best recipe serves
BASELINE_ONLY = "baseline only"  # there is no champion: only the best baseline was set
SHADOW, CANARY = "shadow", "canary"  # a challenger goes on trial
WITHDRAWN = "withdrawn"  # a trial ends without a promotion
WATCH = "watch"  # the kind of trial after a promotion; the others are `SHADOW` and `CANARY`


@dataclass(frozen=True)
class Serving:
    """Who may serve a partition: rows of `switches`, None where there is nobody.

    Parameters
    ----------
    champion : the newest switch in effect.
    previous : the champion before it: another model that was neither rolled back from nor replaced because it
        was worse than a baseline.
    baseline : the best baseline of the newest switch in effect.
    constant : what the labels of the newest training in effect imply: their mean or quantile, or each class's
        share.
    """

    champion: Row | None
    previous: Row | None
    baseline: Row | None
    constant: Constant | None


@dataclass(frozen=True)
class Trial:
    """Two models that score the same rows, one of which may be withdrawn or rolled back from.

    Parameters
    ----------
    kind : ``shadow``: the candidate serves no rows. ``canary``: it serves a share of the entities. ``watch``:
        it serves all rows, and the champion that it replaced scores them in parallel.
    candidate, incumbent : rows of `switches`; in a watch the incumbent is the previous champion.
    """

    kind: str
    candidate: Row
    incumbent: Row

    @property
    def since(self) -> str:
        """The first partition of the trial."""
        return str(self.candidate["effective_from"])

    def __str__(self) -> str:
        relation = "after" if self.kind == WATCH else "against"
        candidate, incumbent = self.candidate["version"], self.incumbent["version"]
        return f"{self.kind} of v{candidate} {relation} v{incumbent} since {self.since}"


def switches(lake: Lake, version: int | None = None) -> list[Row]:
    """Return every row of `switches`, oldest first.

    Parameters
    ----------
    version : of the table, -1 if it didn't exist; the newest by default.
    """
    return sorted([] if version == -1 else lake.rows("switches", version=version), key=_switch_order)


def _switch_order(row: Row) -> tuple[int, str]:
    return int(row["switch"]), str(row["role"])


def serving(lake: Lake, partition: str) -> Serving:
    """Return who may serve a partition."""
    return serving_of(switches(lake), partition)


def serving_of(rows: Sequence[Row], partition: str) -> Serving:
    """Return who may serve a partition according to the given `switches`."""
    rows = in_effect(rows, partition)
    history = champion_history(rows)
    baselines = [row for row in rows if row["role"] == "baseline"]
    newest = history[-1] if history else baselines[-1] if baselines else None
    return Serving(
        champion=history[-1] if history else None,
        previous=history[-2] if len(history) > 1 else None,
        baseline=baselines[-1] if baselines else None,
        constant=_constant(newest) if newest else None,
    )


def why_no_champion(rows: Sequence[Row], partition: str) -> str:
    """Return why no champion serves a partition and what serves instead; empty if a champion serves it."""
    if in_effect(champions(rows), partition):
        return ""
    baseline = serving_of(rows, partition).baseline
    substitute = f"baseline v{baseline['version']}" if baseline else "a constant"
    return f"there is no champion: no model was promoted yet, and {substitute} serves instead"


def _constant(row: Row) -> Constant | None:
    shares = row["class_shares"]
    return tuple(json.loads(shares)) if shares else row["constant"]


def kind_text(kind: str) -> str:
    """Return what a kind of switch did to the version that it switched to: a rollback restored it."""
    return "restored" if kind == ROLLED_BACK else kind


def superseded_from(row: Row, rows: Sequence[Row]) -> str:
    """Return the partition from which a later switch has the role of a switch; empty if none has it.

    Parameters
    ----------
    rows : `switches`. One of the champion ends a challenger's trial.
    """
    roles = {row["role"], "champion"} if row["role"] == "challenger" else {row["role"]}
    later = (other for other in rows if other["role"] in roles and other["switch"] > row["switch"])
    return min((str(other["effective_from"]) for other in later), default="")


def took_effect(row: Row, until: str) -> bool:
    """Return whether a switch took effect before ``until``, which is its `superseded_from`."""
    return not until or until > str(row["effective_from"])


def in_effect(rows: Sequence[Row], partition: str) -> list[Row]:
    """Return the switches that had taken effect by a partition."""
    return [row for row in rows if row["effective_from"] <= partition]


def champions(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the role champion."""
    return [row for row in rows if row["role"] == "champion"]


def live_champion(rows: Sequence[Row]) -> Row | None:
    """Return the newest champion; None before the first."""
    newest = champions(rows)[-1:]
    return newest[0] if newest else None


def replaced_since(history: Sequence[Row]) -> str:
    """Return the partition since which a recipe serves that replaced a worse one, empty if none does.

    Refits of that recipe don't count as a better one, and a rollback to it restores what it is.

    Parameters
    ----------
    history : the switches of the champion, oldest first.
    """
    changes = [row for row in history if row["kind"] != REFRESHED]
    serving = _restored(changes)
    return str(changes[-1]["effective_from"]) if serving and serving["kind"] == REPLACED else ""


def _restored(changes: Sequence[Row]) -> Row | None:
    """Return the newest switch, or the one that it restored by a rollback; None if there is none."""
    while changes:
        *earlier, newest = changes
        same = [row for row in earlier if newest["kind"] == ROLLED_BACK and row["model"] == newest["model"]]
        if not same:
            return newest
        changes = earlier[: earlier.index(same[-1]) + 1]
    return None


def was_judged(lake: Lake, champion: Mapping[str, Any]) -> bool:
    """Tell whether a champion is the model that its attempt judged, not another recipe's that replaced it."""
    if champion["kind"] != ROLLED_BACK:
        return bool(champion["kind"] != REPLACED)
    rows = lake.rows("attempts", {"key": champion["attempt"]}, ["model"])  # it may restore a replacement
    return all(row["model"] == champion["model"] for row in rows)


def champion_history(rows: Sequence[Row]) -> list[Row]:
    """Return the champions, each after the one that it replaced; the live one is last.

    A rollback ends the history after the champion that it restores. So a model that was rolled back from is
    never a fallback, and a second rollback goes further back. Nor is one that a better recipe replaced.
    """
    history: list[Row] = []
    for row in champions(rows):
        models = [earlier["model"] for earlier in history]
        if row["kind"] == ROLLED_BACK and row["model"] in models:
            history = history[: models.index(row["model"])]
        elif models and row["kind"] == REPLACED:
            recipe = history[-1]["recipe"]
            while history and history[-1]["recipe"] == recipe:  # its older fits are no better
                history.pop()
        if history and history[-1]["model"] == row["model"]:
            history.pop()
        history.append(row)
    return history


def trials_on(rows: Sequence[Row], spec: UseCase, partition: str) -> list[Trial]:
    """Return the trials on a partition: at most one watch, and at most one challenger's.

    A switch of the champion ends the trials before it. A watch ends after its partitions, and a challenger's
    trial by a switch in the ledger.

    Parameters
    ----------
    rows : `switches`, oldest first.
    """
    rows = in_effect(rows, partition)
    history = champion_history(rows)
    if not history:
        return []
    champion, trials = history[-1], []
    if len(history) > 1 and champion["kind"] in (PROMOTED, FORCED):
        replaced = history[-2]
        watch = Trial(WATCH, champion, replaced)
        watched = len(spec.clock.keys(watch.since, partition))
        # of a sparse spine the next switch ends it, since few of the partitions have rows
        if spec.sparse or watched <= spec.gate.rollout.patience + spec.labels.delay:
            trials.append(watch)
    challenger = challenger_on_trial(rows, champion)
    if challenger is not None:
        trials.append(Trial(challenger["kind"], challenger, champion))
    return trials


def challenger_on_trial(rows: Sequence[Row], champion: Row) -> Row | None:
    """Return the switch of the challenger that is on trial against a champion, None if there is none.

    Parameters
    ----------
    rows : `switches`, oldest first.
    """
    newest = [row for row in rows if row["role"] == "challenger" and row["switch"] > champion["switch"]][-1:]
    return newest[0] if newest and newest[0]["kind"] != WITHDRAWN else None


def champion_at_training(lake: Lake, spec: UseCase, partition: str, data: str) -> Row | None:
    """Return the champion that a training has to beat, see `champion_to_beat`.

    Once one of its attempts was promoted, training again finds the champion before it, and so the same
    attempt. After another switch it finds another champion, and is another attempt.

    Parameters
    ----------
    data : digest of the training set.
    """
    own = lake.rows("attempts", {"partition": partition, "spec": spec.digest, "data": data}, ["key"])
    return champion_to_beat(lake, partition, *(row["key"] for row in own))


def champion_to_beat(lake: Lake, partition: str, *keys: str) -> Row | None:
    """Return the champion that a training of ``partition`` has to beat, None if it would be the first.

    It is the newest champion whose evidence isn't newer than ``partition`` and that was promoted before any
    of the attempts ``keys`` was. So evaluating again, or a backfill of an old week, compares with the same
    champion.
    """
    rows, attempted = champions(switches(lake)), {*keys, *map(forced_key, keys)}
    own = [row["switch"] for row in rows if row["attempt"] in attempted]
    rows = [row for row in rows if row["judged_on"] <= partition and (not own or row["switch"] < own[0])]
    return rows[-1] if rows else None


def newest_judged(rows: Sequence[Row]) -> str:
    """Return the newest partition that any champion was judged on, empty before the first."""
    return max((row["judged_on"] for row in champions(rows)), default="")


def next_unserved(lake: Lake, spec: UseCase, *partitions: str) -> str:
    """Return the partition after the newest of ``partitions`` and those already served; empty without any.

    Raises
    ------
    PartitionError
        when that partition is after ``schedule.end``, so that a switch would never take effect.
    """
    served = served_partitions(lake)
    newest = max([*partitions, *served], default="")
    following = spec.clock.shift(newest, 1) if newest else ""
    if spec.end and following > spec.end:
        remedy = "set `schedule.end` in usecase.yaml to a later day, or remove it"
        if newest in served and (skipped := {*spec.clock.keys(served[0], newest)} - {*served}):
            remedy = f"withdraw {newest} if it was run by mistake before {min(skipped)}, or {remedy}"
        raise PartitionError(
            f"{spec.name}: switch",
            required=f"a partition that the new model can serve by schedule.end, {spec.schedule.end}",
            found=f"{following} as the next partition",
            remedy=remedy,
        )
    return following


def could_serve_earlier(lake: Lake, spec: UseCase, switch: Row) -> bool:
    """Tell whether a switch would take effect earlier now, since a partition ahead was withdrawn."""
    served = served_partitions(lake)
    newest = max([*served, switch["judged_on"]])
    return bool(served) and spec.clock.shift(newest, 1) < str(switch["effective_from"])


def served_partitions(lake: Lake) -> list[str]:
    """Return the partitions that have been scored, in order."""
    return lake.published("predictions")


def record_switch(lake: Lake, decide: Callable[[list[Row]], list[Row] | T]) -> Row | T:
    """Record one switch in one commit, and return its champion's row.

    Parameters
    ----------
    decide : takes the ledger's rows, oldest first. It returns the new rows without their number, or anything
        but a list to switch nothing; see `Lake.append_compare_and_swap`.
    """

    def decide_numbered(rows: list[Row]) -> list[Row] | T:
        decision = decide(sorted(rows, key=_switch_order))
        return number_switch(rows, decision) if isinstance(decision, list) else decision

    return lake.append_compare_and_swap("switches", SWITCHES, decide_numbered)


def number_switch(rows: Sequence[Row], switch: Sequence[Row]) -> list[Row]:
    """Return the rows of one switch with the number after those of the ledger, the champion's first."""
    number = 1 + max((row["switch"] for row in rows), default=0)
    return [{**row, "switch": number} for row in sorted(switch, key=lambda row: row["role"] != "champion")]


def forced_key(key: str) -> str:
    """Return the key under which forcing an attempt is recorded, in addition to the gate's verdict."""
    return f"{key}+forced"


def judged_attempt(row: Mapping[str, Any]) -> str:
    """Return the key of the attempt that a switch's model was judged in, also if a person forced it."""
    return str(row["attempt"]).removesuffix(forced_key(""))


def was_forced(row: Row) -> bool:
    """Tell whether a switch is to a model that a person forced, also if it was rolled back to since."""
    return str(row["attempt"]).endswith(forced_key(""))
