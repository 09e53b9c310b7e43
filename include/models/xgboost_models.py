"""XGBoost's models in a form that is stored as data: their parameters and the booster's bytes in UBJ.

UBJ is the library's documented format for models, and reading it runs XGBoost's parser and nothing else.
Importing XGBoost takes most of a second, so this module is imported on demand.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xgboost import (
    Booster,
    DataIter,
    ExtMemQuantileDMatrix,
    XGBClassifier,
    XGBModel,
    XGBRegressor,
    train,
)

Array = NDArray[np.float64]
Batch = tuple[Array, Array, Array | None]  # columns, labels, and weights
Batches = Callable[[], Iterator[Batch]]


class _Stored(XGBModel):
    """What both models share.

    Parameters
    ----------
    feature_types : ``c`` for each of the first columns that hold categories as codes; the others are numbers.
    """

    label_values: NDArray[np.float64] | None = None  # of a classifier; None if they are 0, 1, 2 …

    def fit(self, columns: NDArray[np.float64], actual: Any, **options: Any) -> Any:
        """Fit on columns whose first ones are categories, shape (n, any)."""
        self._complete_types(columns.shape[1])
        return super().fit(columns, actual, verbose=False, **options)

    def fit_batches(
        self, batches: Batches, classes: int = 0, boost: Callable[..., Booster] | None = None
    ) -> Any:
        """Fit on batches that are never in memory together.

        The bins of many rows are approximated batch by batch, so the model may differ from that of `fit`.

        Parameters
        ----------
        batches : returns the same batches each time: columns, shape (n, any), labels and weights, (n,).
        classes : the number of classes, 0 for a regression.
        boost : fits the booster as `boost_from_file` does, which is the default.
        """
        types = self._complete_types(next(batches())[0].shape[1])
        params = self.get_xgb_params()
        if classes > 2:  # as XGBoost's own classifier does
            self.objective = params["objective"] = "multi:softprob"
            params["num_class"] = classes
        self._Booster = (boost or boost_from_file)(params, self.get_num_boosting_rounds(), batches, types)
        if classes:
            self.n_classes_ = classes
        return self

    def _complete_types(self, count: int) -> list[str]:
        """Set and return the types of all columns: those after the categories are numbers."""
        types = [*(self.feature_types or []), *["q"] * count][:count]
        self.feature_types = types
        return types

    def __getstate__(self) -> dict[str, Any]:
        """Return what is stored: the parameters that are set, and the booster."""
        params = {name: value for name, value in sorted(self.get_params().items()) if value is not None}
        del params["missing"]  # it is NaN
        state: dict[str, Any] = {"params": params}
        if self.__sklearn_is_fitted__():
            state["booster"] = bytes(self.get_booster().save_raw("ubj"))
        if hasattr(self, "n_classes_"):
            state["classes"] = self.n_classes_
        if self.label_values is not None:
            state["labels"] = self.label_values.tolist()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the model."""
        self.__init__(**state["params"])  # type: ignore[misc]  # an object that skops makes isn't initialized
        if "booster" in state:
            self._Booster = Booster({"nthread": self.n_jobs})
            self._Booster.load_model(bytearray(state["booster"]))
        if "classes" in state:
            self.n_classes_ = state["classes"]
        if "labels" in state:
            self.label_values = np.asarray(state["labels"])

    def __copy__(self) -> Any:
        """Return a shallow copy; `get_params` makes one, so it can't go through `__getstate__`."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy


def boost_from_file(params: dict[str, Any], rounds: int, batches: Batches, types: Sequence[str]) -> Booster:
    """Return the booster fitted on batches, whose bins XGBoost keeps in a file under ``TMPDIR``."""
    with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
        source = _Batches(batches, str(Path(folder, "bins")), list(types))
        matrix = ExtMemQuantileDMatrix(
            source, max_bin=params.get("max_bin") or 256, nthread=params["n_jobs"], enable_categorical=True
        )
        booster = train(params, matrix, rounds)
        del matrix, source
        gc.collect()  # they refer to each other, and remove their file when they are gone
    return booster


class _Batches(DataIter):
    """Batches in the form in which XGBoost asks for them, as often as it needs them."""

    def __init__(self, batches: Batches, prefix: str, types: list[str]) -> None:
        self._batches, self._types = batches, types
        self._rest = batches()
        super().__init__(cache_prefix=prefix, release_data=True)

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over the next batch, and return whether there was one."""
        batch = next(self._rest, None)
        if batch is None:
            return False
        columns, labels, weights = batch
        input_data(data=columns, label=labels, weight=weights, feature_types=self._types)
        return True

    def reset(self) -> None:
        """Begin again."""
        self._rest = self._batches()


class XGBoostClassifier(_Stored, XGBClassifier):
    """XGBoost's classifier, see `_Stored`. Its labels need not be all numbers from 0 on."""

    def fit(self, columns: NDArray[np.float64], actual: Any, **options: Any) -> Any:
        """Fit as `_Stored.fit` does; ``eval_set`` may only have labels that ``actual`` has."""
        distinct = np.unique(actual)
        self.label_values = None  # while XGBoost fits
        if "eval_set" in options:
            options["eval_set"] = [(rows, np.searchsorted(distinct, of)) for rows, of in options["eval_set"]]
        super().fit(columns, np.searchsorted(distinct, actual), **options)
        self.label_values = None if np.array_equal(distinct, np.arange(len(distinct))) else distinct
        return self

    @property
    def classes_(self) -> Any:
        """The labels that it was fitted on, ascending, shape (k,)."""
        return np.arange(self.n_classes_) if self.label_values is None else self.label_values

    def predict_proba(self, X: Any, *arguments: Any, **options: Any) -> Any:  # noqa: N803 (scikit-learn's name)
        """Return each class's probability, shape (n, k), summing to 1 in float64 and not only in float32."""
        probabilities = super().predict_proba(X, *arguments, **options).astype(np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)


class XGBoostRegressor(_Stored, XGBRegressor):
    """XGBoost's regressor, see `_Stored`."""
