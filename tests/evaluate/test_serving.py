"""What serves is what a fresh process makes of the stored bytes; where it can't, that is a finding."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from include.errors import MeasurementFailed
from include.evaluate import serving
from include.judge.evidence import ServingTest
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase, load
from include.spec.gate import SERVING
from include.spec.load import read
from tests.evaluate.fits import Ward, ward
from tests.promote.conftest import WEEKLY

ROOT = Path(__file__).parents[2]


class Stranger(DummyClassifier):  # type: ignore[misc]
    """A type that no one has trusted."""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """The clinic."""
    return ward(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def data(clinic: Ward) -> bytes:
    """A stored model."""
    return artifacts.serialize(clinic.fit("hist_gradient_boosting"))


@pytest.fixture(scope="module")
def predictions(clinic: Ward, data: bytes) -> np.ndarray:
    """What it predicts here."""
    return artifacts.predict(artifacts.deserialize(data, digest_bytes(data)), clinic.rows, clinic.spec)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process be a real one, and no fork of one that has the libraries."""
    monkeypatch.setattr(serving, "sys", sys)


@pytest.mark.full
def test_a_good_model_predicts_the_same_and_has_every_figure(
    clinic: Ward, data: bytes, predictions: np.ndarray, fresh: None
) -> None:
    """Loaded elsewhere it says the same to the bit, and all that a gate may require was measured."""
    result = serving.measure_serving(data, digest_bytes(data), clinic.spec, clinic.rows, predictions)
    assert (result.identical, result.note) == (True, "")
    assert set(result.figures) == set(SERVING)
    assert all(np.isfinite(value) and value > 0 for value in result.figures.values())
    assert result.figures["p50_ms"] <= result.figures["p95_ms"] <= result.figures["p99_ms"]
    assert result.figures["size_mb"] == len(data) / 1e6


@pytest.mark.full
def test_a_booster_predicts_the_same_in_a_fresh_process(clinic: Ward) -> None:
    """A model that isn't scikit-learn's is loaded from the same file, with every figure."""
    data = artifacts.serialize(clinic.fit("xgboost"))
    predictions = artifacts.predict(artifacts.deserialize(data, digest_bytes(data)), clinic.rows, clinic.spec)
    result = serving.measure_serving(data, digest_bytes(data), clinic.spec, clinic.rows, predictions)
    assert (result.identical, result.note) == (True, "")
    assert set(result.figures) == set(SERVING)


def test_damaged_bytes_are_refused_by_their_digest(
    clinic: Ward, data: bytes, predictions: np.ndarray
) -> None:
    """A flipped bit is the fresh process's refusal, in its sentence."""
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    digest = digest_bytes(data)
    result = serving.measure_serving(bytes(damaged), digest, clinic.spec, clinic.rows, predictions)
    assert (result.identical, set(result.figures)) == (False, {"size_mb"})
    assert result.note.startswith(f"model {digest[:12]}: expected SHA-256 {digest}")


def test_a_type_that_is_not_listed_is_refused(clinic: Ward, predictions: np.ndarray) -> None:
    """What skops may not load isn't loaded, though its digest is right."""
    fitted = Pipeline([("model", Stranger(strategy="prior"))])
    data = artifacts.serialize(fitted.fit(artifacts.model_input(clinic.rows, clinic.spec), clinic.actual))
    result = serving.measure_serving(data, digest_bytes(data), clinic.spec, clinic.rows, predictions)
    assert (result.identical, set(result.figures)) == (False, {"size_mb"})
    assert "Stranger; if loading it can't run code, add it to FORMATS" in result.note


def doomed(clinic: Ward, how: str, monkeypatch: pytest.MonkeyPatch) -> ServingTest:
    """Return what is measured of a process that ends as it is told."""
    monkeypatch.setattr(serving, "PROCESS_MODULE", "tests.evaluate.doomed")
    monkeypatch.setattr(serving, "sys", sys)
    result = serving.measure_serving(b"model", how, clinic.spec, clinic.rows, np.zeros(clinic.rows.num_rows))
    assert (result.identical, result.figures) == (False, {"size_mb": 5 / 1e6})
    return result


def test_one_bit_of_difference_is_a_difference(clinic: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction that isn't the same to the bit is counted, and one more or less isn't the same either."""
    monkeypatch.setattr(serving, "PROCESS_MODULE", "tests.evaluate.doomed")
    rows = clinic.rows.slice(0, 4)
    for values, note in (
        ([0.5, 0.5, 0.5, 0.5], ""),
        ([0.5, np.nextafter(0.5, 1), 0.5, 0.5], "1 of 4 predictions differ"),
        ([0.0, 0.5, -0.0, 0.5], "2 of 4 predictions differ"),
        ([0.5, 0.5, 0.5], "4 predictions differ"),
    ):
        result = serving.measure_serving(b"model", "half", clinic.spec, rows, np.array(values))
        assert (result.identical, result.note, result.figures) == (not note, note, {"p50_ms": 1.0})


@pytest.mark.parametrize(
    ("how", "note"),
    [
        ("crashes", "it ended with code -11 and no message"),
        ("silent", "it ended with code 0 and no message"),
    ],
)
def test_a_process_that_crashes_is_noted(
    clinic: Ward, how: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that gives no figures isn't the same, whichever way it ends by itself."""
    assert doomed(clinic, how, monkeypatch).note == note


@pytest.mark.parametrize(
    ("how", "found"),
    [("killed", "it ended with code -9 and no message"), ("hangs", "no answer within 2 s")],
)
def test_a_process_that_the_machine_ends_or_delays_is_no_result(
    clinic: Ward, how: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine, or one without memory, says nothing about the model, so the task is to be retried."""
    monkeypatch.setattr(serving, "TIMEOUT", 2.0 if how == "hangs" else 60.0)
    with pytest.raises(MeasurementFailed, match=f"expected predictions, but found {found}; .*clear"):
        doomed(clinic, how, monkeypatch)
    assert MeasurementFailed.retryable


@pytest.mark.full
def test_a_full_disk_is_no_result(
    clinic: Ward, data: bytes, predictions: np.ndarray, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh process that can't write what it measured says nothing about the model."""
    monkeypatch.setattr(serving, "PROCESS_MODULE", "tests.evaluate.full_disk")
    with pytest.raises(MeasurementFailed, match=r"found OSError: \[Errno 28\] No space left on device"):
        serving.measure_serving(data, digest_bytes(data), clinic.spec, clinic.rows, predictions)


def test_a_process_gets_no_secret_and_leaves_nothing(
    clinic: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given its files and where to import from; a password in the environment stays here."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("EVERGREEN_LAKE", "file:///nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = set(doomed(clinic, "says", monkeypatch).note.split(" "))
    assert {"PYTHONPATH", "OMP_NUM_THREADS", "model.skops", "rows.arrow", "spec.json"} <= values
    assert not {name for name in values if name.startswith(("AWS_", "EVERGREEN_", "AIRFLOW"))}
    assert list(tmp_path.iterdir()) == []


NUMERIC = (
    "OPENBLAS_CORETYPE",
    "OMP_DYNAMIC",
    "MKL_CBWR",
    "VECLIB_MAXIMUM_THREADS",
    "NPY_DISABLE_CPU_FEATURES",
)


def test_a_process_gets_the_variables_of_the_numeric_libraries(
    clinic: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What chooses the kernels and threads of BLAS and its like is the same in the fresh process."""
    for name in NUMERIC:
        monkeypatch.setenv(name, "")
    assert set(NUMERIC) <= set(doomed(clinic, "says", monkeypatch).note.split(" "))


ON_OTHER_KERNELS = """
import sys
from pathlib import Path
from include.evaluate.serving import measure_serving
from include.models import artifacts
from include.references import digest_bytes
from tests.evaluate.fits import ward

clinic = ward(Path(sys.argv[1]))
data = artifacts.serialize(clinic.fit("logistic_regression"))
predictions = artifacts.predict(artifacts.deserialize(data, digest_bytes(data)), clinic.rows, clinic.spec)
print(measure_serving(data, digest_bytes(data), clinic.spec, clinic.rows, predictions).note or "the same")
"""


@pytest.mark.full
@pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenBLAS has these kernels for x86-64 only")
def test_a_chosen_blas_kernel_makes_no_difference(tmp_path: Path) -> None:
    """A linear model predicts the same to the bit on kernels that OPENBLAS_CORETYPE chose."""
    process = subprocess.run(
        [sys.executable, "-c", ON_OTHER_KERNELS, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_CORETYPE": "Nehalem"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.strip() == "the same", process.stderr


def test_without_rows_no_process_is_started(clinic: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to predict nothing is shown."""
    monkeypatch.setattr(serving, "PROCESS_MODULE", "no.such.page")
    result = serving.measure_serving(b"model", "", clinic.spec, clinic.rows.slice(0, 0), np.empty(0))
    assert (result.identical, result.note) == (False, "there are no rows to predict")


@pytest.mark.parametrize("spec", [load("flight_delay"), read(WEEKLY)], ids=lambda spec: spec.name)
def test_a_declaration_goes_to_another_process_and_is_the_same(spec: UseCase) -> None:
    """What the fresh process reads of a declaration is all of it but where it lies."""
    copy = UseCase.model_validate_json(spec.model_dump_json(by_alias=True))
    assert copy.model_copy(update={"folder": spec.folder}) == spec
