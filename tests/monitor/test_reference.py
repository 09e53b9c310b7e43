"""What the serving model learned on.

Counted once by partition, from the partitions that its evidence names.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import StoreUnavailable
from include.monitor import reference
from include.promote import ledger
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import ATTEMPTS
from tests.monitor import machines


def learned(lake: Lake, use: UseCase) -> reference.Reference:
    """Return the champion's reference."""
    stored = reference.read(lake, use, ledger.switches(lake)[-1])
    assert stored is not None
    return stored


def judge(lake: Lake, **evidence: str) -> None:
    """Publish the evidence of the champion's attempt."""
    key = ledger.switches(lake)[-1]["attempt"]
    row = dict.fromkeys(ATTEMPTS.names) | {"key": key, "evidence": json.dumps(evidence)}
    lake.append_at("attempts", pa.Table.from_pylist([row], schema=ATTEMPTS), -1)


def test_partitions_add_up_to_the_profile(lake: Lake, use: UseCase) -> None:
    """The counts of the fitted partitions are what training's own profile holds, within its error."""
    stored = learned(lake, use)
    assert stored.rows == machines.fitted_rows(lake, use)
    for name in use.features.columns:
        column = stored.columns[name]
        assert column.partitions is not None
        total = column.partitions[column.fitted].sum(axis=0)
        # labels are missing for one row in twenty: training leaves those out, drift does not
        assert total / total.sum() == pytest.approx(
            column.binning.profile_counts(column.profile) / column.profile.count, abs=0.02
        )
    weekday = stored.columns["weekday"]
    assert (np.count_nonzero(weekday.partitions, axis=1) == 1).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([-2.5, -1.0, 0.0, 1.0, 7.0, np.inf]))))
def test_a_value_is_unseen_if_it_lies_beyond_those_of_all_other_partitions(
    rows: list[tuple[int, float]],
) -> None:
    """As counted one partition after the other; a partition that is alone has nothing unseen."""
    partition = np.array([own for own, _ in rows], dtype=np.intp)
    values = np.array([value for _, value in rows], dtype=np.float64)
    expected = np.zeros(5)
    for index in range(5):
        own, others = values[partition == index], values[partition != index]
        if len(own) and len(others):
            expected[index] = np.mean((own < others.min()) | (own > others.max()))
    assert reference._unseen_elsewhere(partition, pa.array(values), 5).tolist() == expected.tolist()


def test_it_is_made_once(lake: Lake, use: UseCase) -> None:
    """A second reading finds what the first one kept, even when the rows are gone."""
    first = learned(lake, use)
    machines.forget_history(lake)
    again = learned(lake, use)
    assert first.sample == again.sample
    assert (first.columns["temp"].partitions == again.columns["temp"].partitions).all()


def test_the_evidence_says_what_was_fitted_on(lake: Lake, use: UseCase) -> None:
    """A spec that splits otherwise today doesn't move the line that the champion's own evidence draws."""
    judge(lake, **dict.fromkeys(("fitted", "last_fitted"), use.clock.shift(machines.FIRST, 3)))
    assert learned(lake, use).rows == 4 * machines.ROWS


def test_a_walk_forward_was_judged_on_partitions_that_it_was_fitted_on(lake: Lake, use: UseCase) -> None:
    """Its features are of all that it was fitted on, its predictions of the partitions that judged it."""
    judged, fitted = (use.clock.shift(machines.FIRST, partitions) for partitions in (3, 9))
    judge(lake, fitted=fitted, last_fitted=judged)
    stored = learned(lake, use)
    assert stored.rows == 10 * machines.ROWS
    predicted = stored.columns["prediction"].partitions
    assert predicted is not None
    assert len(predicted) == len(use.clock.keys(machines.FIRST, machines.TRAINED)) - 4


def test_a_damaged_model_leaves_the_features_reference(lake: Lake, use: UseCase) -> None:
    """Where the model can't be loaded any more, its features are still compared, by partition and sample."""
    lake.replace(f"models/{ledger.switches(lake)[-1]['model']}.skops", b"damaged")
    stored = learned(lake, use)
    assert stored.columns["temp"].partitions is not None
    assert stored.columns["prediction"].partitions is None
    assert stored.sample is not None
    assert stored.sample["prediction"].null_count == stored.sample.num_rows


def test_an_outage_keeps_no_reference(lake: Lake, use: UseCase) -> None:
    """A model that can't be reached now isn't damaged: what is kept once waits for it."""
    folder = Path(lake.uri.removeprefix("file://"))
    (folder / "models").rename(folder / "away")
    (folder / "models").write_text("no folder")
    with pytest.raises(StoreUnavailable):
        learned(lake, use)
    assert lake.keys("references") == []
    (folder / "models").unlink()
    (folder / "away").rename(folder / "models")
    assert learned(lake, use).columns["prediction"].partitions is not None
