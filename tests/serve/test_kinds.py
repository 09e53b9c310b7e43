"""Each kind of problem is served as it is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.export.convert import to_onnx
from include.models import artifacts
from include.models.outputs import predicted_class
from include.promote import ledger
from include.serve.models import onnx_predictor
from include.storage.lake import Lake
from include.storage.schemas import SWITCHES
from tests.export.models import case, declare, fitted, labeled_rows
from tests.serve.requests import predictions, service
from tests.train import visits


@pytest.mark.full
@pytest.mark.parametrize("kind", visits.KINDS)
@pytest.mark.parametrize("estimator", ["hist_gradient_boosting", "random_forest"])
def test_onnx_runtime_takes_each_value_as_the_pipeline_does(kind: str, estimator: str) -> None:
    """Missing numbers and texts, unknown texts, and texts that only look missing."""
    spec, pipeline = declare(kind), fitted(case(kind, estimator, max_depth=4))
    rows = labeled_rows(spec, 601)
    quick = onnx_predictor(to_onnx(pipeline, spec), spec)
    for part in (rows, rows.slice(5, 1), rows.slice(0, 0)):
        expected = artifacts.predict(pipeline, part, spec)
        assert quick(part).shape == expected.shape
        assert np.allclose(quick(part), expected, rtol=1e-9, atol=0)


@pytest.mark.full
@pytest.mark.parametrize("kind", visits.KINDS)
def test_an_answer_has_the_columns_of_the_table(kind: str, tmp_path: Path) -> None:
    """Of several classes the label, its probability and that of each class; of the others one number."""
    spec, pipeline = declare(kind), fitted(case(kind, "hist_gradient_boosting", max_depth=4))
    lake = Lake(spec.name, str(tmp_path))
    row: dict[str, Any] = dict.fromkeys(SWITCHES.names, "") | {
        "constant": None,
        "effective_from": visits.FIRST,
    }
    row |= {
        "model": artifacts.store_model(lake, artifacts.serialize(pipeline)),
        "class_shares": "[0.2, 0.5, 0.3]",
    }
    row |= {"role": "champion", "version": "1", "kind": "promoted"}
    ledger.record_switch(lake, lambda rows: [row])
    rows = labeled_rows(spec).select(list(spec.features.columns)).slice(0, 30)
    expected = artifacts.predict(pipeline, rows, spec)
    answers = predictions(service(lake, spec), *json.loads(json.dumps(rows.to_pylist())))
    assert {answer["served_by"] for answer in answers} == {"champion"}
    columns = [[answer[name] for name in spec.problem.outputs] for answer in answers]
    assert np.allclose(columns, expected.reshape(len(rows), -1), rtol=1e-9, atol=0)
    if spec.problem.classes:
        assert [answer["label"] for answer in answers] == predicted_class(spec, expected).to_pylist()
        assert [answer["prediction"] for answer in answers] == [max(row) for row in columns]
    else:
        assert [set(answer) for answer in answers] == [
            {"prediction", "served_by", "version", "model", "reason"} for _ in answers
        ]
