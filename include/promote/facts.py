"""What is measured of a challenger beside its losses: plain records, the parts of the evidence."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slice:
    """The objective's losses on a part of the rows, challenger beside rival, on the nights of the evidence.

    Parameters
    ----------
    name : as ``origin = JFK`` or ``distance in [184, 502)``.
    declared : whether the spec names its column; else it is an automatic one.
    rows : labelled rows by night, 0 where the slice has none, shape (n,).
    challenger, rival : sums of the per-row losses by night, shape (n,).
    """

    name: str
    declared: bool
    rows: tuple[int, ...]
    challenger: tuple[float, ...]
    rival: tuple[float, ...]


@dataclass(frozen=True)
class Fairness:
    """How the groups of one sensitive column fare.

    Parameters
    ----------
    groups : group -> ``rows``, ``selection_rate``, ``tpr``, ``fpr``, ``calibration``; groups with enough
        rows only.
    figures : by the names of `include.spec.gate.FAIRNESS`; one that the rows can't give is missing.
    """

    column: str
    groups: dict[str, dict[str, float]]
    figures: dict[str, float]


@dataclass(frozen=True)
class EdgeCase:
    """What the challenger made of rows that were harmed on purpose.

    Parameters
    ----------
    name : as ``temp missing``.
    kind : what was done: ``missing``, ``noise``, ``unseen``, ``extreme``, ``dtype``, ``rows`` or ``columns``.
    held : whether it gave a finite prediction a row, or refused in a sentence what can't be predicted.
    rise : relative rise of the mean loss over the unharmed rows; None where there is no loss to compare.
    note : what happened instead, where it didn't hold.
    """

    name: str
    kind: str
    held: bool
    rise: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Serving:
    """The challenger as it would serve: loaded in a fresh process from its stored bytes.

    Parameters
    ----------
    same : whether it predicted there what it predicts here, to the bit.
    figures : by the names of `include.spec.gate.SERVING`: latency of one row (ms), rows per second of a
        night's batch, size of the stored bytes (MB), memory that loading and predicting took (MB).
    note : what went wrong, where it isn't the same.
    """

    same: bool
    figures: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class Leak:
    """Whether it is too good to be true.

    Parameters
    ----------
    alone : feature -> ROC-AUC (0.5 to 1; of several classes the highest) or R², on the test nights, of a
        small tree that sees it only; without the classes in ``too_few``.
    shuffled : the objective's loss by night of the challenger's recipe fitted on shuffled labels, at the
        prior's level, of several shuffles the one that loses most, shape (n,).
    saved : share of the prior's loss that the challenger saves on the test nights.
    history : the same of the use case's earlier attempts, oldest first.
    too_few : class, or else the target, -> its test rows, where they are too few to tell whether a feature
        decides it alone; of a class and all others the fewer count.
    """

    alone: dict[str, float] = field(default_factory=dict)
    shuffled: tuple[float, ...] = ()
    saved: float | None = None
    history: tuple[float, ...] = ()
    too_few: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All of them.

    Parameters
    ----------
    rival : whose losses the slices have beside the challenger's: ``champion``, else the strongest baseline.
    coverage : feature -> share of the scored rows whose value the model to serve was never fitted on: an
        unseen category, or a number outside the range.
    importance : feature -> mean rise of the objective's loss when its values are permuted.
    refit : of a walk forward: mean loss, on the test nights, of the model that was fitted on them as well.
    """

    rival: str = ""
    slices: tuple[Slice, ...] | None = None
    fairness: tuple[Fairness, ...] = ()
    edge_cases: tuple[EdgeCase, ...] = ()
    serving: Serving | None = None
    leak: Leak = Leak()
    coverage: dict[str, float] = field(default_factory=dict)
    importance: dict[str, float] = field(default_factory=dict)
    refit: float | None = None
