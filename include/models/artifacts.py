"""A stored model is data: its bytes have a digest, and reading them runs no code that this page doesn't name.

A model is one scikit-learn pipeline that does its own preprocessing, in the skops format, so that no state
lives outside of it. The digest is verified before anything is parsed; a type that isn't listed is refused.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from typing import Any, cast
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import skops.io
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from skops.io.exceptions import UntrustedTypesFoundException

from include.errors import ModelError
from include.models import encoding, outputs
from include.references import digest_bytes
from include.spec import UseCase
from include.storage import spill
from include.storage.lake import Lake


def renumber_nodes(node: Any, ids: dict[int, int], names: dict[str, str]) -> None:
    """Number the objects and files below a node of skops' schema by the order in which they appear."""
    if isinstance(node, list):
        for item in node:
            renumber_nodes(item, ids, names)
    if not isinstance(node, dict):
        return
    if node.get("is_json"):
        node.pop("__id__", None)  # whether two equal constants are one object is chance
    elif isinstance(node.get("__id__"), int):
        node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
    if isinstance(node.get("file"), str):
        ending = node["file"].rpartition(".")[2]
        node["file"] = names.setdefault(node["file"], f"{len(names) + 1}.{ending}")
    for value in node.values():
        renumber_nodes(value, ids, names)


def zero_padding(file: bytes) -> bytes:
    """Return an array's file with zeros between its fields, where NumPy writes whatever its buffer held."""
    if not file.startswith(np.lib.format.MAGIC_PREFIX):
        return file
    array = np.load(io.BytesIO(file), allow_pickle=False)
    if array.dtype.names is None:
        return file
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    # as bytes, since NumPy copies a structured array field by field
    return file[: -clean.nbytes] + clean.view(np.uint8).tobytes()


# Beside what skops trusts by itself (scikit-learn's estimators, numpy's and Python's plain types).
TRUSTED: tuple[str, ...] = (
    "include.train.recipes.ColumnPlusConstant",
    "functools.partial",  # gradient boosting keeps its input check as one; its parts must be trusted as well
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)
LIMIT = 512 << 20  # bytes, packed or unpacked
Values = NDArray[np.float64]
Ask = Callable[[pa.Table], Values]
Said = Callable[[int, pa.Table], Values | None]  # of a part and its first row


def model_key(digest: str) -> str:
    """Return where in the lake the model with this digest lies."""
    return f"models/{digest}.skops"


def serialize(estimator: Pipeline) -> bytes:
    """Return a fitted pipeline in the skops format; the same pipeline gives the same bytes.

    skops names what it stores by memory addresses and the hour: both are replaced by the order of appearance.
    """
    with ZipFile(io.BytesIO(skops.io.dumps(estimator))) as packed:
        schema = json.loads(packed.read("schema.json"))
        names: dict[str, str] = {}
        renumber_nodes(schema, {}, names)
        sink = io.BytesIO()
        with ZipFile(sink, "w") as plain:
            for old, new in names.items():
                plain.writestr(ZipInfo(new), zero_padding(packed.read(old)))
            plain.writestr(ZipInfo("schema.json"), json.dumps(schema, separators=(",", ":")))
    return sink.getvalue()


def deserialize(data: bytes, digest: str) -> Pipeline:
    """Return the pipeline that ``data`` holds.

    Parameters
    ----------
    data : what `dump` wrote.
    digest : the SHA-256 that the ledger or the registry has for it.

    Raises
    ------
    ModelError
        when the bytes have another digest, are too many, hold a type that isn't listed, or no pipeline.
    """
    subject = f"model {digest[:12]}"
    if (found := digest_bytes(data)) != digest:
        remedy = "the copy is damaged or was replaced: restore it, or roll back to another version"
        raise ModelError(subject, required=f"SHA-256 {digest}", found=found, remedy=remedy)
    try:
        _weigh(subject, data)
        estimator = skops.io.loads(data, trusted=list(TRUSTED))
    except UntrustedTypesFoundException as error:
        types = ", ".join(sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED)))
        remedy = "if it does nothing but hold a model, add it to TRUSTED in include/models/artifacts.py"
        raise ModelError(subject, required="types that are trusted", found=types, remedy=remedy) from error
    except ModelError:
        raise
    except Exception as error:
        # whatever a file that is none makes skops or NumPy raise, the ladder must be able to go on
        remedy = "it was written by another version of skops or scikit-learn: train again"
        found = f"{type(error).__name__}: {error}"
        raise ModelError(subject, required="a skops file", found=found, remedy=remedy) from error
    if not isinstance(estimator, Pipeline):
        raise ModelError(subject, required="a scikit-learn Pipeline", found=type(estimator).__name__)
    return estimator


def _weigh(subject: str, data: bytes) -> None:
    """Refuse what is too large, or could unpack to more than it says: `dump` packs nothing."""
    with ZipFile(io.BytesIO(data)) as packed:
        entries = packed.infolist()
    size = max(len(data), sum(entry.file_size for entry in entries))
    if size > LIMIT:
        raise _too_large(subject, size)
    if any(one.compress_type != ZIP_STORED for one in entries):
        raise ModelError(subject, required="entries that aren't compressed", found="some that are")


def _too_large(subject: str, size: int) -> ModelError:
    return ModelError(subject, required=f"at most {LIMIT} bytes", found=str(size), remedy="fit a smaller one")


def model_input(rows: pa.Table, spec: UseCase, *, coded: bool = False) -> pd.DataFrame:
    """Return the features as scikit-learn takes them: float64 with NaN, then objects with None.

    Parameters
    ----------
    coded : texts are pandas' categories instead, as `encode.once` takes them.

    Raises
    ------
    ModelError
        naming the feature columns that the rows lack, or the one that holds something else than numbers.
    """
    missing = [column for column in spec.features.columns if column not in rows.column_names]
    if missing:
        remedy = f"give them in {spec.features.sql}"
        raise ModelError(
            f"{spec.name}: rows to predict", required=", ".join(missing), found="none", remedy=remedy
        )
    columns = {c: pd.Series(_numbers(rows[c], c, spec)) for c in spec.features.numeric}
    columns |= {c: encoding.text_values(rows[c], coded=coded) for c in spec.features.categorical}
    return pd.DataFrame(columns, columns=list(spec.features.columns))


def _numbers(column: pa.ChunkedArray, name: str, spec: UseCase) -> Values:
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy())
    except pa.ArrowException as error:
        # the ladder goes on to the next rung after a ModelError only
        found = " ".join(str(error).split())
        raise ModelError(
            f"{spec.name}: rows to predict", required=f"numbers as {name}", found=found
        ) from error


def predict(estimator: Pipeline, rows: pa.Table, spec: UseCase) -> Values:
    """Return one prediction a row.

    Parameters
    ----------
    rows : with the spec's feature columns, shape (n, any).

    Returns
    -------
    ndarray of float64
        The probability of the positive class, within [0, 1], or the value in the target's unit, shape (n,);
        of a multiclass problem the probability of each class, shape (n, k), in the order of the declaration.

    Raises
    ------
    ModelError
        when columns are missing, the pipeline fails, or what it gives isn't one finite number a row, or one a
        class.
    """
    return fill_predictions(batch_predictor(estimator, spec), rows, spec)


def fill_predictions(
    ask: Ask, rows: pa.Table, spec: UseCase, said: Said = lambda start, part: None
) -> Values:
    """Return what `predict` does, by what `asked` returns and what it has said of some parts already."""
    values = spill.allocate_array(outputs.predictions_shape(spec, rows.num_rows))

    def fill(place: slice, part: pa.Table) -> None:
        known = said(place.start, part)
        values[place] = ask(part) if known is None else known

    with warnings.catch_warnings():  # outside: it is one for all threads
        warnings.simplefilter("ignore")  # an unseen category is expected, and encoded as unknown
        for _ in spill.map_batches(fill, rows):  # trees let go of the interpreter
            pass
    return values


def batch_predictor(estimator: Pipeline, spec: UseCase) -> Ask:
    """Return what predicts some rows at once, as `predict` does."""
    quick = encoding.encode_once(estimator, spec)
    return lambda rows: _predicted(quick or estimator, model_input(rows, spec, coded=quick is not None), spec)


def _predicted(estimator: Pipeline, given: pd.DataFrame, spec: UseCase) -> Values:
    shape = outputs.predictions_shape(spec, len(given))
    if given.empty:
        return np.empty(shape, dtype=np.float64)
    try:
        found = _raw(estimator, given, spec.problem.codes)
    except Exception as error:
        # whatever a broken model raises, the ladder must be able to go on to the next
        raise ModelError(f"{spec.name}: model", found=f"{type(error).__name__}: {error}") from error
    values = np.ascontiguousarray(found, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if values.shape != shape or bad:
        raise ModelError(
            f"{spec.name}: model",
            required=f"{' x '.join(map(str, shape))} finite predictions",
            found=f"shape {values.shape} with {bad} that are not",
        )
    return values


def _raw(estimator: Pipeline, given: pd.DataFrame, codes: tuple[float, ...]) -> Values:
    if not codes:
        return cast("Values", estimator.predict(given))
    if tuple(float(c) for c in estimator.classes_) != codes:
        needed = ", ".join(f"{code:g}" for code in codes)
        raise ValueError(f"the classes {needed} are needed, it knows {list(estimator.classes_)}")
    found = cast("Values", estimator.predict_proba(given))
    return found[:, 1] if len(codes) == 2 else found


def store_model(lake: Lake, data: bytes) -> str:
    """Keep a model's bytes in the lake under their digest, and return the digest."""
    digest = digest_bytes(data)
    lake.create(model_key(digest), data)
    return digest


def load_model(lake: Lake, digest: str) -> Pipeline:
    """Return a model from the lake, its digest verified.

    Raises
    ------
    ModelError
        when it isn't there or can't be loaded.
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
    return deserialize(data, digest)
