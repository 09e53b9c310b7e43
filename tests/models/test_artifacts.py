"""A stored model is verified before it is read, and predicts one finite number for each row."""

from __future__ import annotations

import io
import pickle
import resource
from pathlib import Path
from threading import Event, Thread
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.storage.lake import Lake
from tests.train import visits


class Stranger(BaseEstimator):  # type: ignore[misc]
    """A type that no one has trusted."""

    def fit(self, frame: Any, actual: Any) -> Stranger:
        """Learn nothing."""
        return self

    def predict(self, frame: Any) -> Any:
        """Return what must never be returned."""
        return np.zeros(len(frame))


class Ill(DummyClassifier):  # type: ignore[misc]
    """A classifier that predicts NaN."""

    def predict_proba(self, frame: Any) -> Any:
        """Return NaN for the first row."""
        probabilities = super().predict_proba(frame)
        probabilities[0] = np.nan
        return probabilities


def rows(count: int) -> pa.Table:
    """Return rows with the clinic's features and a column that no model sees."""
    numbers = pa.array([float(i) for i in range(count)], pa.float64())
    places = pa.array(["north", None] * count, pa.string()).slice(0, count)
    return pa.table({"visit": numbers, "earlier": numbers, "place": places, "distance": numbers})


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic's declaration."""
    return visits.usecase(tmp_path_factory.mktemp("models"))


def pipeline(spec: UseCase, estimator: Any = None) -> Pipeline:
    """Return a fitted pipeline."""
    fitted = Pipeline([("model", estimator or DummyClassifier(strategy="prior"))])
    return fitted.fit(artifacts.model_input(rows(4), spec), [0.0, 1.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def data(spec: UseCase) -> bytes:
    """A stored model."""
    return artifacts.serialize(pipeline(spec))


def test_model_comes_back_from_the_lake(spec: UseCase, data: bytes, tmp_path: Path) -> None:
    """What is stored under its digest is fetched by it, and storing it again changes nothing."""
    lake = Lake("clinic", str(tmp_path))
    digest = artifacts.store_model(lake, data)
    assert artifacts.store_model(lake, data) == digest
    assert lake.keys("models/") == [artifacts.model_key(digest)]
    assert artifacts.predict(artifacts.load_model(lake, digest), rows(3), spec).tolist() == [0.25] * 3


def test_absent_model_names_its_place(tmp_path: Path) -> None:
    """A digest that the lake doesn't have is answered by the path and the remedy."""
    with pytest.raises(ModelError, match=r"no such object.*clinic/models/abc\.skops.*registry"):
        artifacts.load_model(Lake("clinic", str(tmp_path)), "abc")


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_flipped_bit_is_refused_before_anything_is_read(data: bytes, place: int, bit: int) -> None:
    """Whichever bit of the stored bytes flips, the digest tells."""
    damaged = bytearray(data)
    damaged[place % len(data)] ^= 1 << bit
    with pytest.raises(ModelError, match=f"expected SHA-256 {digest_bytes(data)}"):
        artifacts.deserialize(bytes(damaged), digest_bytes(data))


def test_type_that_is_not_listed_is_refused_by_its_name(spec: UseCase) -> None:
    """A file with another type isn't loaded, though its digest is right."""
    data = artifacts.serialize(pipeline(spec, Stranger()))
    with pytest.raises(
        ModelError, match=r"test_artifacts\.Stranger.*FORMATS in include/models/artifacts\.py"
    ):
        artifacts.deserialize(data, digest_bytes(data))


class Harmful:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        """Raise, where a pickle is loaded."""
        return pytest.fail, ("a pickle was loaded",)


def packed(compression: int, **files: bytes) -> bytes:
    """Return a zip."""
    sink = io.BytesIO()
    with ZipFile(sink, "w", compression=compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return sink.getvalue()


def lying(data: bytes, size: int) -> bytes:
    """Return a zip of one entry whose directory says another size."""
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + size.to_bytes(4, "little") + data[at + 4 :]


def endless() -> bytes:
    """Return a file whose array says that it has more numbers than any memory."""
    with ZipFile(io.BytesIO(skops.io.dumps(np.zeros(3)))) as file:
        files = {name: file.read(name) for name in file.namelist()}
    shape = b"(99999999999999,), }"
    old = b"(3,), }" + b" " * (len(shape) - 7)
    return packed(0, **{name: data.replace(old, shape) for name, data in files.items()})


FAULTS = {
    "a pickle": pickle.dumps(Harmful()),
    "a pickle in a zip": packed(0, **{"schema.json": pickle.dumps(Harmful())}),
    "packed entries": packed(8, **{"schema.json": b"{}"}),
    "packed by bz2": packed(12, **{"schema.json": b"{}"}),
    "a packed bomb that says it is small": lying(packed(12, **{"schema.json": b" " * (64 << 20)}), 10),
    "a schema without end": packed(0, **{"schema.json": b"[" * 200_000}),
    "an array larger than any memory": endless(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_model_of_ours_is_refused(fault: str) -> None:
    """Even under its right digest nothing is run, and little memory taken: loading raises a ModelError."""
    data = FAULTS[fault]
    assert len(data) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="expected"):
        artifacts.deserialize(data, digest_bytes(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB


def test_large_object_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the limit in a model's place is refused by its size."""
    lake = Lake("clinic", str(tmp_path))
    lake.create(artifacts.model_key("abc"), b"0" * 1001)
    monkeypatch.setattr(artifacts, "LIMIT", 1000)
    monkeypatch.setattr(Lake, "get", pytest.fail)
    with pytest.raises(ModelError, match="at most 1000 bytes, but found 1001"):
        artifacts.load_model(lake, "abc")


@pytest.mark.parametrize("data", [b"", b"PK", b"not a model"])
def test_other_bytes_are_no_model(data: bytes) -> None:
    """A file of another kind is refused in a sentence."""
    with pytest.raises(ModelError, match="expected a skops file"):
        artifacts.deserialize(data, digest_bytes(data))


def test_file_without_a_pipeline_is_refused() -> None:
    """What is trusted but no pipeline can't serve."""
    data = skops.io.dumps({"a": 1})
    with pytest.raises(ModelError, match=r"expected a scikit-learn Pipeline, but found dict"):
        artifacts.deserialize(data, digest_bytes(data))


def test_large_model_is_refused_unpacked(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that would unpack to more than the limit isn't unpacked."""
    monkeypatch.setattr(artifacts, "LIMIT", len(data) + 1000)
    sink = io.BytesIO()
    with ZipFile(sink, "w", compression=8) as bomb:
        bomb.writestr("schema.json", " " * 2 * len(data))
    packed = sink.getvalue()
    assert len(packed) < len(data)
    with pytest.raises(ModelError, match="at most"):
        artifacts.deserialize(packed, digest_bytes(packed))


def test_same_model_has_the_same_bytes(spec: UseCase, data: bytes) -> None:
    """Neither the hour nor a memory address is in the bytes, and a copy's copy is the same."""
    assert artifacts.serialize(pipeline(spec)) == data
    assert artifacts.serialize(artifacts.deserialize(data, digest_bytes(data))) == data


def test_arrays_are_parsed_by_one_thread_at_a_time(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.11, NumPy's parser fails now and then if two threads use it."""
    load, other_is_in, overlapped = np.load, Event(), []

    def slow(*args: Any, **kwargs: Any) -> Any:
        if len(overlapped) == 0:
            overlapped.append(False)
            overlapped[0] = other_is_in.wait(0.2)
        other_is_in.set()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", slow)
    pipeline = artifacts.deserialize(data, digest_bytes(data))
    overlapped.clear()
    other_is_in.clear()
    threads = [Thread(target=artifacts.serialize, args=(pipeline,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlapped == [False]


def test_no_rows_give_no_predictions(spec: UseCase) -> None:
    """A partition without rows to score isn't an error."""
    predictions = artifacts.predict(pipeline(spec), rows(0), spec)
    assert (predictions.shape, predictions.dtype) == ((0,), np.float64)


def test_columns_that_are_missing_are_named(spec: UseCase) -> None:
    """Rows without the declared features are refused by the features' names."""
    with pytest.raises(ModelError, match=r"missed_visits.*distance, place"):
        artifacts.predict(pipeline(spec), rows(3).drop_columns(["place", "distance"]), spec)


def test_frame_has_the_declared_columns_in_order(spec: UseCase) -> None:
    """The model sees the spec's features and nothing else, numbers as float64, categories as objects."""
    frame = artifacts.model_input(rows(3), spec)
    assert list(frame.columns) == ["distance", "earlier", "place"]
    assert [str(kind) for kind in frame.dtypes] == ["float64", "float64", "object"]
    assert frame["place"].tolist() == ["north", None, "north"]


def test_prediction_that_is_not_finite_is_refused(spec: UseCase) -> None:
    """A NaN never becomes a prediction."""
    with pytest.raises(ModelError, match=r"3 finite predictions.*with 1 that are not finite"):
        artifacts.predict(pipeline(spec, Ill(strategy="prior")), rows(3), spec)


def test_model_of_other_classes_is_refused(spec: UseCase) -> None:
    """A classifier that doesn't know 0 and 1 can't give the probability of 1."""
    other = Pipeline([("model", DummyClassifier())]).fit(artifacts.model_input(rows(2), spec), ["no", "yes"])
    with pytest.raises(ModelError, match=r"could not convert|the classes 0, 1 are needed"):
        artifacts.predict(other, rows(3), spec)
