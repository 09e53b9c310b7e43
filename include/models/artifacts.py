"""Stores, loads and applies models: scikit-learn pipelines as one file each, under their digests.

A pipeline does its own preprocessing, so it has no state elsewhere. The file is in the skops format; a model
of another library is an entry of it, in that library's own format for data, see `FORMATS`. The digest is
verified before anything is parsed, and only the types in `TRUSTED` and those of the use case's own estimators
are loaded, so reading a model runs no foreign code. The bytes are canonical: the same pipeline always has the
same digest.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from threading import Lock
from typing import Any, Literal, cast
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError, SpecError
from include.extensions import location_of
from include.models import encoding, outputs
from include.references import digest_bytes
from include.spec import Problem, UseCase
from include.storage import spill
from include.storage.lake import Lake

# The formats of a pipeline's model, with the types that each needs in addition to what skops trusts by
# itself: scikit-learn's estimators, and plain types of NumPy and Python. Loading none of them runs code.
Format = Literal["skops", "ubj"]
FORMATS: dict[Format, tuple[str, ...]] = {
    "skops": (
        "include.train.options.LogTarget",
        "include.train.python_estimators.Adapter",
        "include.train.recent_intercept.ShiftedClassifier",
        "include.train.recent_intercept.ShiftedRegressor",
        "include.train.estimators.ColumnPlusConstant",
        "functools.partial",  # gradient boosting stores its input check as one; its parts are checked as well
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils.validation.check_array",
    ),
    # an XGBoost booster, as bytes of its own binary JSON
    "ubj": (
        "include.models.xgboost_models.XGBoostClassifier",
        "include.models.xgboost_models.XGBoostRegressor",
    ),
}
TRUSTED: tuple[str, ...] = tuple(name for names in FORMATS.values() for name in names)
DECLARED = "declared_classes_"  # the attribute of a pipeline with the classes that were declared for its fit
LIMIT = 512 << 20  # bytes, compressed or not
# NumPy parses the header of an array's file by `ast`, which fails in Python 3.11 if two threads do so while
# garbage is collected (python/cpython#106905), and recipes are fitted on several threads
_parsing = Lock()
BLOCK = 64  # rows; a multiple of those that BLAS's kernels multiply at once, which are at most 16
Values = NDArray[np.float64]
BatchPredictor = Callable[[pa.Table], Values]


def model_key(digest: str) -> str:
    """Return the key in the lake of the model with this digest."""
    return f"models/{digest}.skops"


def serialize(estimator: Pipeline) -> bytes:
    """Return a fitted pipeline in the skops format; the same pipeline gives the same bytes.

    skops names its entries by memory address and stamps them with the time. Both are made canonical.
    """
    import skops.io  # takes 1.5 s, which pages and DAG files needn't wait for

    with ZipFile(io.BytesIO(skops.io.dumps(estimator))) as original:
        schema = json.loads(original.read("schema.json"))
        names: dict[str, str] = {}
        renumber_nodes(schema, {}, names)
        sink = io.BytesIO()
        with ZipFile(sink, "w") as canonical:
            for old, new in names.items():
                canonical.writestr(ZipInfo(new), zero_padding(original.read(old)))
            canonical.writestr(ZipInfo("schema.json"), json.dumps(schema, separators=(",", ":")))
    return sink.getvalue()


def renumber_nodes(node: Any, ids: dict[int, int], names: dict[str, str]) -> None:
    """Number the objects and files below a node of skops' schema in order of appearance.

    Parameters
    ----------
    ids, names : new ids and file names by the old ones; they are filled in.
    """
    if isinstance(node, list):
        for item in node:
            renumber_nodes(item, ids, names)
    if not isinstance(node, dict):
        return
    if node.get("is_json"):
        node.pop("__id__", None)  # whether two equal constants are the same object is chance
    elif isinstance(node.get("__id__"), int):
        node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
    if isinstance(node.get("file"), str):
        extension = node["file"].rpartition(".")[2]
        node["file"] = names.setdefault(node["file"], f"{len(names) + 1}.{extension}")
    for value in node.values():
        renumber_nodes(value, ids, names)


def zero_padding(file: bytes) -> bytes:
    """Return an array's file with zeros between its fields, where NumPy writes uninitialized memory."""
    if not file.startswith(np.lib.format.MAGIC_PREFIX):
        return file
    with _parsing:
        array = np.load(io.BytesIO(file), allow_pickle=False)
    if array.dtype.names is None:
        return file
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    # as bytes, because NumPy copies a structured array field by field
    return file[: -clean.nbytes] + clean.view(np.uint8).tobytes()


def custom_types(spec: UseCase | None, data: bytes) -> set[str]:
    """Return the types in a stored model that the modules of a use case's own estimators define."""
    import skops.io  # as above

    codes = spec.python_of("training") if spec else ()
    names = skops.io.get_untrusted_types(data=data) if codes else []
    return {name for code in codes for name in code.custom_types(names)}


def deserialize(data: bytes, digest: str, spec: UseCase | None = None) -> Pipeline:
    """Return the pipeline that `serialize` wrote.

    Parameters
    ----------
    digest : the SHA-256 that the ledger or the registry has for it.
    spec : the use case, whose own estimators the pipeline may contain.

    Raises
    ------
    ModelError
        when the digest differs, the model is too large, a type isn't trusted, or it isn't a pipeline.
    """
    return _deserialize(data, digest, spec)[0]


def _deserialize(data: bytes, digest: str, spec: UseCase | None) -> tuple[Pipeline, set[str]]:
    """Return the pipeline, and which types of the use case's own estimators it contains."""
    import skops.io  # as above
    from skops.io.exceptions import UntrustedTypesFoundException

    subject = f"model {digest[:12]}"
    if (found := digest_bytes(data)) != digest:
        remedy = "the copy is damaged or was replaced: restore it, or roll back to another version"
        raise ModelError(subject, required=f"SHA-256 {digest}", found=found, remedy=remedy)
    own: set[str] = set()
    try:
        _validate_size(subject, data)
        try:
            with _parsing:
                estimator = skops.io.loads(data, trusted=list(TRUSTED))
        except UntrustedTypesFoundException:
            own = custom_types(spec, data)
            with _parsing:
                estimator = skops.io.loads(data, trusted=[*TRUSTED, *own])
    except UntrustedTypesFoundException as error:
        types = ", ".join(sorted(set(skops.io.get_untrusted_types(data=data)) - {*TRUSTED, *own}))
        remedy = "if loading it can't run code, add it to FORMATS in include/models/artifacts.py"
        remedy += "; a class that a use case's estimator contains belongs in the estimator's module"
        raise ModelError(subject, required="trusted types", found=types, remedy=remedy) from error
    except SpecError as error:  # the estimator's module, without which scoring must be able to fall back
        where, remedy = error.where, error.remedy
        raise ModelError(
            subject, required=error.required, found=error.found, where=where, remedy=remedy
        ) from error
    except ModelError:
        raise
    except Exception as error:
        # skops and NumPy may raise anything for a broken file, and scoring must be able to fall back
        remedy = "it was written by another version of skops or scikit-learn: train again"
        found = f"{type(error).__name__}: {error}"
        raise ModelError(subject, required="a skops file", found=found, remedy=remedy) from error
    if not isinstance(estimator, Pipeline):
        kind = type(estimator).__name__
        raise ModelError(subject, required="a scikit-learn Pipeline", found=kind, remedy="train again")
    return estimator, own


def _validate_size(subject: str, data: bytes) -> None:
    """Refuse a model that is too large, or compressed, since it could expand to more than it states."""
    with ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    size = max(len(data), sum(entry.file_size for entry in entries))
    if size > LIMIT:
        raise _too_large(subject, size)
    if any(entry.compress_type != ZIP_STORED for entry in entries):
        raise ModelError(
            subject,
            required="uncompressed entries",
            found="compressed ones",
            remedy="train again, which stores a model uncompressed",
        )


def _too_large(subject: str, size: int) -> ModelError:
    return ModelError(
        subject, required=f"at most {LIMIT} bytes", found=str(size), remedy="fit a smaller model"
    )


def model_input(rows: pa.Table, spec: UseCase, *, coded: bool = False) -> pd.DataFrame:
    """Return the features as scikit-learn takes them: float64 with NaN, and texts as objects with None.

    Parameters
    ----------
    coded : return texts as pandas categories, as `encoding.encode_once` needs them.

    Raises
    ------
    ModelError
        when the rows lack feature columns, or a numeric feature isn't numeric.
    """
    missing = [column for column in spec.features.columns if column not in rows.column_names]
    if missing:
        remedy = f"select them in {spec.features_file.name}"
        raise ModelError(
            f"{spec.name}: rows to predict", required=", ".join(missing), found="none", remedy=remedy
        )
    columns = {c: pd.Series(_numbers(rows[c], c, spec)) for c in spec.features.numeric}
    columns |= {c: encoding.text_values(rows[c], coded=coded) for c in spec.features.categorical}
    return pd.DataFrame(columns, columns=list(spec.features.columns))


def typical_row(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row that has each column's median or most frequent value, so it copies nobody's row.

    Parameters
    ----------
    frame : as `model_input` returns it, shape (n, features).
    """
    values = {
        name: column.median() if column.dtype.kind == "f" else next(iter(column.mode()), None)
        for name, column in frame.items()
    }
    return pd.DataFrame([values], columns=frame.columns).astype(frame.dtypes)


def _numbers(column: pa.ChunkedArray, name: str, spec: UseCase) -> Values:
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy())
    except pa.ArrowException as error:
        # scoring falls back to the next model after a ModelError only
        found = " ".join(str(error).split())
        raise ModelError(
            f"{spec.name}: rows to predict",
            required=f"numbers as {name}",
            found=found,
            remedy=f"return numbers from {spec.features_file.name}, or declare it under features.categorical",
        ) from error


def predict(estimator: Pipeline, rows: pa.Table, spec: UseCase) -> Values:
    """Return one prediction for each row.

    Parameters
    ----------
    rows : with the spec's feature columns, shape (n, any).

    Returns
    -------
    ndarray of float64
        The probability of the positive class, within [0, 1], or the value in the target's unit, shape (n,).
        For a multiclass problem the probability of each class, shape (n, k), in the order of the declaration.

    Raises
    ------
    ModelError
        when columns are missing, the pipeline fails, or its predictions aren't finite numbers of that shape.
    """
    return predict_batches(batch_predictor(estimator, spec), rows, spec)


def predict_batches(predict_batch: BatchPredictor, rows: pa.Table, spec: UseCase) -> Values:
    """Return the predictions of `predict`, computed batch by batch on several threads.

    Parameters
    ----------
    predict_batch : from `batch_predictor`.
    """
    values = spill.allocate_array(outputs.predictions_shape(spec, rows.num_rows))

    def fill(span: slice, batch: pa.Table) -> None:
        values[span] = predict_batch(batch)

    with warnings.catch_warnings():  # around all threads, because they share the filters
        warnings.simplefilter("ignore")  # an unseen category is expected, and encoded as unknown
        for _ in spill.map_batches(fill, rows):  # trees release the interpreter lock
            pass
    return values


def batch_predictor(estimator: Pipeline, spec: UseCase) -> BatchPredictor:
    """Return a function that predicts one batch of rows, as `predict` does.

    Where a partition may be split by entity, a row's prediction doesn't depend on how many rows are in its
    batch: a matrix product rounds the last rows differently unless they fill a block.
    """
    quick = encoding.encode_once(estimator, spec)

    def predict_batch(rows: pa.Table) -> Values:
        frame, count = model_input(rows, spec, coded=quick is not None), rows.num_rows
        if spec.features.entity and count % BLOCK:
            frame = frame.iloc[np.arange(-(-count // BLOCK) * BLOCK) % count]
        return _predict_frame(quick or estimator, frame, spec)[:count]

    return predict_batch


def _predict_frame(estimator: Pipeline, frame: pd.DataFrame, spec: UseCase) -> Values:
    shape = outputs.predictions_shape(spec, len(frame))
    if frame.empty:
        return np.empty(shape, dtype=np.float64)
    remedy = "check its estimator and the features that it gets, then train again"
    try:
        predictions = _raw_predictions(estimator, frame, spec.problem)
        values = np.ascontiguousarray(predictions, dtype=np.float64)
    except (Exception, SystemExit) as error:
        # a broken model may raise anything, and scoring must be able to fall back to the next one
        where = location_of(error, spec.folder)
        raise ModelError(
            f"{spec.name}: model", found=f"{type(error).__name__}: {error}", where=where, remedy=remedy
        ) from error
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if values.shape != shape or bad:
        raise ModelError(
            f"{spec.name}: model",
            required=f"{' x '.join(map(str, shape))} finite predictions",
            found=f"shape {values.shape} with {bad} that are not finite",
            remedy=remedy,
        )
    return values


def _raw_predictions(estimator: Pipeline, frame: pd.DataFrame, problem: Problem) -> Values:
    if not problem.codes:
        return cast("Values", estimator.predict(frame))
    positions = known_classes(estimator, problem)
    probabilities = cast("Values", estimator.predict_proba(frame))
    if not problem.classes:
        return probabilities[:, 1]
    return outputs.add_unseen_classes(probabilities, positions, len(problem.classes))


def known_classes(estimator: Pipeline, problem: Problem) -> list[int]:
    """Return the places of the declared classes that a model was fitted on.

    Raises
    ------
    ValueError
        when it was fitted for other classes than the declared ones.
    """
    own_codes, codes = [float(code) for code in estimator.classes_], list(problem.codes)
    # a model of another declaration may mean other classes by the same codes
    declared = getattr(estimator, DECLARED, None)
    fits = own_codes == codes if declared is None else declared == list(problem.classes)
    if not fits or not set(own_codes) <= set(codes):
        needed = ", ".join(problem.classes or map("{:g}".format, codes))
        found = ", ".join(map(str, declared or own_codes))
        raise ValueError(f"a model of the classes {needed} is needed, it is one of {found}")
    return [codes.index(code) for code in own_codes]


def store_model(lake: Lake, data: bytes) -> str:
    """Store a model's bytes in the lake under their digest, and return the digest."""
    digest = digest_bytes(data)
    lake.create(model_key(digest), data)
    return digest


def is_stored(lake: Lake, digest: str) -> bool:
    """Return whether a model is in the lake; upkeep removes those of old fits that nothing needs."""
    return lake.size(model_key(digest)) is not None


# models that were loaded before: parsing one takes longer than predicting a small partition with it
_recent: dict[str, Pipeline] = {}
RECENT, RECENT_BYTES = 8, 8 << 20  # models, and the most bytes of one


def load_model(lake: Lake, digest: str, spec: UseCase | None = None) -> Pipeline:
    """Return a model from the lake, its digest verified. It may be shared, so it must not be changed.

    Parameters
    ----------
    spec : as in `deserialize`.

    Raises
    ------
    ModelError
        when it isn't there or `deserialize` refuses it.
    """
    if (size := lake.size(model_key(digest)) or 0) > LIMIT:
        raise _too_large(f"model {digest[:12]}", size)
    data = lake.get(model_key(digest))
    if data is None:
        remedy = "restore it from the registry: promote that version again"
        raise ModelError(
            f"model {digest[:12]}",
            found="no such object",
            where=f"{lake.uri}/{model_key(digest)}",
            remedy=remedy,
        )
    if digest in _recent and digest_bytes(data) == digest:
        return _recent[digest]
    estimator, own = _deserialize(data, digest, spec)
    if len(data) <= RECENT_BYTES and not own:  # whose code may be edited
        if len(_recent) == RECENT:
            _recent.pop(next(iter(_recent)))
        _recent[digest] = estimator
    return estimator
