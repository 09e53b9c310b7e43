"""XGBoost's models in a form that is stored as data: their parameters and the booster's bytes in UBJ.

UBJ is the library's documented format for models, and reading it runs XGBoost's parser and nothing else.
Importing XGBoost takes most of a second, so this module is imported on demand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from xgboost import Booster, XGBClassifier, XGBModel, XGBRegressor


class _Stored(XGBModel):
    """What both models share.

    Parameters
    ----------
    feature_types : ``c`` for each of the first columns that hold categories as codes; the others are numbers.
    """

    def fit(self, columns: NDArray[np.float64], actual: Any, **options: Any) -> Any:
        """Fit on columns of which the first ones are categories, shape (n, any)."""
        count = columns.shape[1]
        self.feature_types = [*(self.feature_types or []), *["q"] * count][:count]
        return super().fit(columns, actual, verbose=False, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is stored: the parameters that are set, and the booster."""
        params = {name: value for name, value in sorted(self.get_params().items()) if value is not None}
        del params["missing"]  # it is NaN
        state: dict[str, Any] = {"params": params}
        if self.__sklearn_is_fitted__():
            state["booster"] = bytes(self.get_booster().save_raw("ubj"))
        if hasattr(self, "n_classes_"):
            state["classes"] = self.n_classes_
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the model."""
        self.__init__(**state["params"])  # type: ignore[misc]  # an object that skops makes isn't initialized
        if "booster" in state:
            self._Booster = Booster({"nthread": self.n_jobs})
            self._Booster.load_model(bytearray(state["booster"]))
        if "classes" in state:
            self.n_classes_ = state["classes"]

    def __copy__(self) -> Any:
        """Return a shallow copy; `get_params` makes one, so it can't go through `__getstate__`."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made


class XGBoostClassifier(_Stored, XGBClassifier):
    """XGBoost's classifier, see `_Stored`."""

    def predict_proba(self, X: Any, *arguments: Any, **options: Any) -> Any:  # noqa: N803 (scikit-learn's name)
        """Return each class's probability, shape (n, k), summing to 1 in float64 and not only in float32."""
        probabilities = super().predict_proba(X, *arguments, **options).astype(np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)


class XGBoostRegressor(_Stored, XGBRegressor):
    """XGBoost's regressor, see `_Stored`."""
