"""The policy: what a partition's findings lead to, as a pure function of the findings and decisions so far.

- An alarm leads to an alert. An alarm that persists is alerted again only after the quiet period.
- One bad partition is no reason to train. The same alarm several partitions in a row is a cause, and requests
  one training at a time. After a champion was replaced because a baseline was better, a training is requested
  at once, and then each week as long as a baseline serves.
- Rollback and replacement are steps of `include.rollout` or of a person. The first monitored partition on or
  after the one from which such a step takes effect has it as its decision, and alerts it.

`decide` is the pure function; `publish_decisions` reads its history and publishes the result.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import pyarrow as pa

from include.errors import unstable
from include.monitor.alerts import NOTIFIED, Key, deliveries, take_over
from include.monitor.context import Finding, findings_from_rows
from include.monitor.registry import CHECKS, MonitoringCheck
from include.monitor.state import PRODUCT
from include.promote import ledger
from include.spec import UseCase
from include.spec.clock import time_of
from include.storage import schemas
from include.storage.lake import Lake, Row
from include.storage.windows import partition_before, partitions_with_rows
from include.train.recipes import baseline_names

CAUSES = {check.cause: check.name for check in CHECKS if check.cause}
MONTH = 30  # days of the limit of requested trainings
REPLACED_CAUSE = "replaced"  # the cause that needs no entry under retraining.when
WEEK = timedelta(7)  # between two trainings that a replacement requests: by then there is new evidence
MAX_ATTEMPTS = 20  # at deciding on unchanged findings
BACKWARD = (ledger.ROLLED_BACK, ledger.REPLACED)
Act = Literal["nothing", "alert", "retrain", "roll back", "replace"]  # in order of weight


@dataclass(frozen=True)
class AlertItem:
    """One item of an alert.

    Parameters
    ----------
    check, subject, value, threshold, note : those of the finding. For a switch of the champion, ``check`` is
        ``switch`` and ``subject`` the version that serves.
    """

    check: str
    subject: str
    value: float | None
    threshold: float | None
    note: str


@dataclass(frozen=True)
class Decision:
    """The decision of a partition, and why.

    Parameters
    ----------
    decision : the weightiest act that follows.
    cause : the name under which a training is requested, whatever the decision; empty if none is.
    reason : as a sentence, of all that follows.
    alerts : what to notify recipients of.
    quiet : the alarms that aren't among the alerts because an earlier partition alerted them.
    """

    decision: Act
    cause: str
    reason: str
    alerts: tuple[AlertItem, ...] = ()
    quiet: tuple[AlertItem, ...] = ()


@dataclass(frozen=True)
class PartitionState:
    """A partition as the policy sees it.

    Parameters
    ----------
    model : digest of its champion; empty before the first promotion.
    alarms : its findings in alarm; none if it wasn't monitored.
    switch : the rollback or replacement that took effect after the monitored partition before, if one did.
    switch_act : which of the two, as a decision.
    why_no_champion : why no champion serves it, and what serves instead; empty if one serves.
    requests_since : the partition since which trainings are requested to succeed a replacement, see
        `requests_since`; empty if none are.
    decision : the decision so far; None for a partition that is yet to be decided, or wasn't monitored.
    has_rows : whether it has rows to score. Only partitions of a sparse spine may have none.
    recipe : the champion's recipe. A refit changes the model, not the recipe.
    """

    key: str
    model: str
    alarms: tuple[Finding, ...] = ()
    switch: AlertItem | None = None
    switch_act: Literal["roll back", "replace"] = "roll back"
    why_no_champion: str = ""
    requests_since: str = ""
    decision: Decision | None = None
    has_rows: bool = True
    recipe: str = ""


def decide(history: Sequence[PartitionState], spec: UseCase, unsent: Sequence[AlertItem] = ()) -> Decision:
    """Decide the newest partition, from its findings and from those and the decisions before it.

    Parameters
    ----------
    history : consecutive partitions with rows or alarms, in order, and the one to decide last. Partitions
        further back than `policy_window` change nothing.
    unsent : the alarms to alert although an earlier partition did, since nobody was notified then.
    """
    partition = history[-1]
    alerts, quiet = _alerts(history, spec)
    quiet = tuple(item for item in quiet if item not in unsent)
    if partition.requests_since:
        cause, why = _successor_training(history, partition.requests_since)
    else:
        cause, why = _training(history, spec)
    parts = [why]
    parts += [f"alerts {_listed(alerts)}"] if alerts else []
    parts += [f"alerts {_listed(unsent)}, of which nobody was notified before"] if unsent else []
    parts += [f"already alerted: {_listed(quiet)}"] if quiet else []
    alerts = (*alerts, *unsent)
    if partition.switch:
        alerts = (partition.switch, *alerts)
        parts.insert(0, partition.switch.note)
    act: Act = "retrain" if cause else "alert" if alerts else "nothing"
    act = partition.switch_act if partition.switch else act
    return Decision(act, cause, "; ".join(parts), alerts, quiet)


def requests_since(spec: UseCase, champions: Sequence[Row], partition: str) -> str:
    """Return the partition on which a broken champion was replaced, as long as that requests trainings.

    It does for a week, and as long as a baseline serves. For another recipe the schedule's are enough.

    Parameters
    ----------
    champions : the switches of the champion, oldest first, up to the partition.
    """
    since = ledger.replaced_since(champions)
    if not since or time_of(partition) - time_of(since) < WEEK:
        return since
    return since if champions[-1]["recipe"] in baseline_names(spec) else ""


def other_causes(lake: Lake, spec: UseCase, partition: str, cause: str) -> list[str]:
    """Return the other causes under which the training that a partition requests may have been started.

    Decisions don't depend on the order in which partitions are monitored, but started trainings do: once an
    earlier partition is monitored late, it is the one that names the cause, and the training was started
    under the name of a later one.
    """
    subject, first = cause[: -len(partition) - 1], cause[-len(partition) :]
    published = lake.published(PRODUCT)
    if subject.startswith(REPLACED_CAUSE):
        week = [key for key in published if abs(time_of(key) - time_of(first)) < WEEK]
        return [f"{subject}-{key}" for key in week if key != first]
    if spec.sparse:
        with_rows = set(partitions_with_rows(lake, spec))
        published = [key for key in published if key in with_rows]
    model, cooldown = subject.rpartition("-")[2], spec.retraining.cooldown
    before, after = bisect_left(published, first), bisect_right(published, first)
    near = [first, *published[max(before - cooldown, 0) : before], *published[after : after + cooldown]]
    causes = [f"{kind}-{model}-{key}" for key in near for kind in spec.retraining.when]
    return [other for other in causes if other != cause]


def policy_window(spec: UseCase) -> int:
    """Return how many partitions before one its decision depends on."""
    rules, quiet = spec.retraining, max(check.quiet(spec) for check in CHECKS)
    return max(quiet, spec.clock.partitions_in(MONTH) + rules.cooldown, rules.consecutive - 1)


def _alerts(
    history: Sequence[PartitionState], spec: UseCase
) -> tuple[tuple[AlertItem, ...], tuple[AlertItem, ...]]:
    """Return the partition's new alerts, and its alarms that are still in the quiet period of an alert."""
    new: list[AlertItem] = []
    quiet: list[AlertItem] = []
    for check in CHECKS:
        if not check.alerts:
            continue
        alarms = [alarm for alarm in history[-1].alarms if alarm.check == check.name]
        for alarm in _causes(sorted(alarms, key=lambda alarm: alarm.subject), spec.features.spine):
            item = AlertItem(check.name, alarm.subject, alarm.value, alarm.threshold, alarm.note)
            (quiet if _alerted_items(history, check, spec, item.subject) else new).append(item)
    return tuple(new), tuple(quiet)


def _causes(alarms: list[Finding], spine: str) -> list[Finding]:
    """Return a check's alarms, that of missing rows to score together with that of the predictions they miss.

    Both ask for one thing, which is to run the partition again when its rows have come.
    """
    by_subject = {alarm.subject: alarm for alarm in alarms if alarm.check == "data"}
    rows, predictions = by_subject.get(spine), by_subject.get("predictions")
    if rows is None or predictions is None or rows.value != 1.0:  # published rows with errors are scored
        return alarms
    both = replace(rows, note=f"{rows.note}; {predictions.note}")
    return [both if alarm is rows else alarm for alarm in alarms if alarm is not predictions]


def _alerted_items(
    history: Sequence[PartitionState], check: MonitoringCheck, spec: UseCase, subject: str
) -> list[tuple[str, AlertItem]]:
    """Return the alerts that keep an alarm of a check quiet, with their partitions, oldest first."""
    return [
        (partition.key, item)
        for partition in history[-1 - check.quiet(spec) : -1]
        for item in (partition.decision.alerts if partition.decision else ())
        if _quiets(check, (item.check, item.subject), subject)
    ]


def _quiets(check: MonitoringCheck, alert: Key, subject: str) -> bool:
    """Return whether an alert keeps a check's alarm about a subject quiet."""
    return alert[0] == check.name and (check.quiets_all_subjects or alert[1] == subject)


def _listed(alerts: Sequence[AlertItem]) -> str:
    shown = ", ".join(f"{alert.check} {alert.subject}" for alert in alerts[:6])
    return shown + (f" and {len(alerts) - 6} more" if len(alerts) > 6 else "")


def _training(history: Sequence[PartitionState], spec: UseCase) -> tuple[str, str]:
    """Return the cause by which the partition requests a training, empty if it doesn't, and why."""
    partition, rules = history[-1], spec.retraining
    if not partition.model:
        return "", partition.why_no_champion
    streaks = []
    for kind in rules.when:
        judged = [*(earlier for earlier in history[:-1] if earlier.has_rows), partition]
        lengths = _streaks(judged[-rules.consecutive :], CAUSES[kind])
        lasting = sorted(subject for subject, length in lengths.items() if length >= rules.consecutive)
        if lasting:
            duration = "in this partition"
            if rules.consecutive > 1:
                duration = f"for {rules.consecutive} partitions in a row"
            return _request(history, spec, kind, f"{kind}: {', '.join(lasting)} {duration}")
        streaks += [f"{subject} {kind} for {length}" for subject, length in sorted(lengths.items())]
    if streaks:
        return "", f"{', '.join(streaks)} of {rules.consecutive} partitions in a row"
    if not rules.when:
        return "", "retraining.when declares no cause"
    return "", f"no {' or '.join(CAUSES[kind] for kind in rules.when)} alarm"


def _successor_training(history: Sequence[PartitionState], since: str) -> tuple[str, str]:
    """Return the cause by which a partition whose champion replaced a worse one requests a training, and why.

    The first such partition requests one, and then one each week under a new name, since a cause names the
    run that it starts. Neither `retraining.cooldown` nor the monthly budget applies, because what serves is
    the best of fits that were made before.

    Parameters
    ----------
    since : the partition from which that champion serves.
    """
    partition = history[-1]
    state = f"the champion was replaced on {since}"
    cause = f"{REPLACED_CAUSE}-{since}-"  # not the model's: each training fits another one
    for earlier in history[:-1]:
        recent = earlier.key >= since and time_of(partition.key) - time_of(earlier.key) < WEEK
        if recent and earlier.decision and earlier.decision.cause == cause + earlier.key:
            return cause + earlier.key, f"{state}; a training was requested on {earlier.key}"
    return cause + partition.key, f"{state}; a better model is requested"


def _request(history: Sequence[PartitionState], spec: UseCase, kind: str, why: str) -> tuple[str, str]:
    """Return the cause's name and why; no name during the cool-down of another cause or over the budget.

    A cause keeps its name until its cool-down is over. So a request whose run never started is repeated under
    the same name.
    """
    partition, last = history[-1], len(history) - 1
    rules, month = spec.retraining, spec.clock.partitions_in(MONTH)
    first: dict[str, int] = {}
    for index in range(max(last - month - rules.cooldown, 0), last):
        decision = history[index].decision
        if decision and decision.cause and not decision.cause.startswith(REPLACED_CAUSE):
            first.setdefault(decision.cause, index)
    own = f"{kind}-{partition.model[:12]}"
    for cause, index in first.items():
        if last - index <= rules.cooldown:
            since = f"requested on {history[index].key}"
            if cause.startswith(own):
                return cause, f"{why}, {since}"
            wait = f"the next is allowed {rules.cooldown + 1} partitions later"
            return "", f"{why}; a training was {since}, {wait}"
    recent = sum(last - index <= month for index in first.values())
    if recent >= rules.max_per_month:
        limit = f"at most {rules.max_per_month} are allowed"
        return "", f"{why}; {recent} trainings were requested in {month} partitions, {limit}"
    return f"{own}-{partition.key}", why


def _streaks(history: Sequence[PartitionState], check: str) -> dict[str, int]:
    """Return for each subject in alarm on the newest partition for how many partitions in a row it has been.

    A partition that another recipe served ends the streak. A refit doesn't, or weekly refits would let no
    streak grow beyond a week.
    """
    streaks: Counter[str] = Counter()
    lasting = {alarm.subject for alarm in history[-1].alarms}
    for partition in reversed(history):
        if partition.recipe != history[-1].recipe:
            break
        lasting &= {alarm.subject for alarm in partition.alarms if alarm.check == check}
        streaks.update(lasting)
    return streaks


UNDECIDED = Decision("nothing", "", "")  # a monitored partition whose decision isn't published yet


def publish_decisions(lake: Lake, spec: UseCase, partition: str) -> Decision:
    """Decide a monitored partition and those after it, publish what changed, and return its decision."""
    for _ in range(MAX_ATTEMPTS):
        history = _history(lake, spec, partition)
        counted: list[PartitionState] = []
        changed = []
        for state in history:
            decided = state
            if state.key >= partition and state.decision is not None:
                decided = replace(state, decision=decide([*counted, state], spec))
            if decided != state:
                changed.append(decided)
            if decided.has_rows or decided.alarms:
                counted.append(decided)
        if not changed:
            final = next(state.decision for state in history if state.key == partition)
            assert final is not None
            return final
        rows = pa.Table.from_pylist([_to_row(state) for state in changed], schema=schemas.DECISIONS)
        lake.publish("decisions", rows, {"partition": [state.key for state in changed]})
    raise unstable(f"{spec.name}/decisions/{partition}", "findings", MAX_ATTEMPTS)


def has_unsent(lake: Lake, spec: UseCase, decision: Row) -> bool:
    """Return whether `with_unsent` may add something, if no alert is silenced."""
    history = _quiet_history(lake, spec, decision)
    return any(alerted_on for _, alerted_on in _quiet_alarms(lake, spec, history))


def with_unsent(lake: Lake, spec: UseCase, decision: Row, is_silenced: Callable[[Key], bool]) -> Row:
    """Return a decision with its quiet alarms among the alerts if nobody was notified of them before.

    The partition that alerted them was backfilled, so it notified nobody. Or the alert was added later, by a
    rerun of an earlier partition. If several partitions run at once, only one sends them.

    Parameters
    ----------
    is_silenced : whether a person acknowledged or muted an alert.
    """
    history = _quiet_history(lake, spec, decision)
    unsent = [
        item
        for item, alerted_on in _quiet_alarms(lake, spec, history)
        if alerted_on
        and not is_silenced((item.check, item.subject))
        and take_over(lake, (item.check, item.subject), alerted_on, by=decision["partition"])
    ]
    if not unsent:
        return decision
    return decision | _to_row(replace(history[-1], decision=decide(history, spec, unsent)))


def _quiet_history(lake: Lake, spec: UseCase, decision: Row) -> list[PartitionState]:
    """Return the history that a decision with quiet alarms rests on; empty if it has none, as most do."""
    if not json.loads(decision["quiet"] or "[]"):
        return []
    until = [
        state for state in _history(lake, spec, decision["partition"]) if state.key <= decision["partition"]
    ]
    return [state for state in until if state.has_rows or state.alarms or state is until[-1]]


def _quiet_alarms(
    lake: Lake, spec: UseCase, history: Sequence[PartitionState]
) -> list[tuple[AlertItem, str]]:
    """Return the newest partition's quiet alarms; none without a history.

    Each comes with the partition that alerted it, empty if somebody was notified within its quiet period.
    """
    checks = {check.name: check for check in CHECKS}
    longest = max(check.quiet(spec) for check in CHECKS)
    sent = deliveries(lake, [state.key for state in history[-1 - longest : -1]])
    alarms = []
    for item in _alerts(history, spec)[1] if history else ():
        check = checks[item.check]
        is_notified = any(
            delivery.outcome == NOTIFIED
            and any(_quiets(check, alert, item.subject) for alert in delivery.alerts)
            for state in history[-1 - check.quiet(spec) : -1]
            for delivery in sent.get(state.key, ())
        )
        alerted = _alerted_items(history, check, spec, item.subject)
        alarms.append((item, "" if is_notified else alerted[0][0]))
    return alarms


def _history(lake: Lake, spec: UseCase, partition: str) -> list[PartitionState]:
    """Return the states of a partition, of those its decision depends on, and of all monitored later ones.

    If the spine is sparse, an alarm persists over partitions without rows, which also end no quiet period.
    """
    monitored = sorted({*lake.published(PRODUCT), partition})
    first = partition_before(lake, spec, partition, policy_window(spec))
    keys = spec.clock.keys(first, monitored[-1])
    alarms = defaultdict(list)
    for row in lake.rows("findings", {"partition": keys, "outcome": "alarm"}):
        alarms[row["partition"]].append(row)
    with_rows = {*(partitions_with_rows(lake, spec) if spec.sparse else keys)}
    decidable = {key for key in monitored if key >= partition}
    keys = [key for key in keys if key in with_rows or key in alarms or key in decidable]
    decisions = {row["partition"]: _from_row(row) for row in lake.rows("decisions", {"partition": keys})}
    switches = ledger.switches(lake)
    champions = ledger.champions(switches)
    history = []
    for key in keys:
        in_effect, index = ledger.in_effect(champions, key), bisect_left(monitored, key)
        serving, is_monitored = ledger.live_champion(in_effect), key in monitored[index : index + 1]
        switch = _backward_switch(in_effect, monitored[index - 1] if index else "")
        history.append(
            PartitionState(
                key,
                model=str(serving["model"]) if serving else "",
                alarms=tuple(findings_from_rows(alarms[key])) if is_monitored else (),
                switch=_switch_item(switch, key) if switch else None,
                switch_act="replace" if switch and switch["kind"] == ledger.REPLACED else "roll back",
                why_no_champion="" if serving else ledger.why_no_champion(switches, key),
                requests_since=requests_since(spec, in_effect, key) if key in with_rows else "",
                decision=decisions.get(key, UNDECIDED) if is_monitored else None,
                has_rows=key in with_rows,
                recipe=str(serving["recipe"]) if serving else "",
            )
        )
    return history


def _backward_switch(champions: Sequence[Row], after: str) -> Row | None:
    """Return the newest rollback or replacement that took effect after a partition, None if none did.

    Parameters
    ----------
    champions : the switches of the champion, oldest first.
    """
    for row in reversed(champions):
        if row["kind"] not in BACKWARD or row["effective_from"] <= after:
            continue
        if row == ledger.live_champion(ledger.in_effect(champions, row["effective_from"])):
            return row
    return None


def _switch_item(switch: Row, partition: str) -> AlertItem:
    """Return the alert of a rollback or replacement on a partition."""
    version, replaced = f"v{switch['version']}", switch["kind"] == ledger.REPLACED
    what = f"{switch['recipe']} of {version} serves" if replaced else f"{version} serves again"
    since = "this partition" if switch["effective_from"] == partition else switch["effective_from"]
    note = f"{switch['kind']}: {what} from {since} on ({switch['reason']})"
    return AlertItem("switch", version, None, None, note)


def _to_row(state: PartitionState) -> dict[str, str]:
    decision = state.decision
    assert decision is not None
    return {
        "partition": state.key,
        "decision": decision.decision,
        "cause": decision.cause,
        "reason": decision.reason,
        "alerts": _to_json(decision.alerts),
        "quiet": _to_json(decision.quiet),
    }


def _from_row(row: dict[str, str]) -> Decision:
    alerts, quiet = _from_json(row.get("alerts")), _from_json(row.get("quiet"))
    act: Any = row["decision"]  # an `Act`, as written
    return Decision(act, row["cause"], row["reason"], alerts, quiet)


def _to_json(items: Sequence[AlertItem]) -> str:
    return json.dumps([asdict(item) for item in items], ensure_ascii=False)


def _from_json(items: str | None) -> tuple[AlertItem, ...]:
    return tuple(AlertItem(**item) for item in json.loads(items or "[]"))
