"""Writes fitted models as a graph: the prediction, or the probability of each class, as a matrix.

To add a model, write a function and add it to `MODELS`. Of two classes only the second's probability
is returned, which is the prediction of a binary problem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

from include.errors import ModelError
from include.export.graph import DOUBLE, FLOAT, Graph
from include.export.trees import Tree, write_trees
from include.train.estimators import ColumnPlusConstant
from include.train.options import LogTarget
from include.train.recent_intercept import ShiftedClassifier, ShiftedRegressor

LINKS = {"IdentityLink": "Identity", "LogLink": "Exp", "LogitLink": "Sigmoid", "MultinomialLogit": "Softmax"}
ACTIVATIONS = {
    **{"identity": "Identity", "relu": "Relu", "tanh": "Tanh"},
    **{"logistic": "Sigmoid", "exp": "Exp", "softmax": "Softmax"},
}
Boosting: TypeAlias = HistGradientBoostingClassifier | HistGradientBoostingRegressor
Forest: TypeAlias = RandomForestClassifier | RandomForestRegressor


def write_constant(graph: Graph, model: DummyClassifier | DummyRegressor, source: str) -> str:
    """Return the training's mean or class shares for each row."""
    is_classifier = isinstance(model, DummyClassifier)
    values = _without_first_of_two(model.class_prior_) if is_classifier else np.ravel(model.constant_)
    rows = graph.add("Shape", source, end=1)
    shape = graph.add("Concat", rows, graph.constant([len(values)], np.int64), axis=0)
    return graph.add("Expand", graph.constant(values[None, :]), shape)


def _without_first_of_two(classes: Any) -> Any:
    """Return all classes, but of two the second alone: its probability is the prediction."""
    return classes[1:] if len(classes) == 2 else classes


def write_rule(graph: Graph, model: ColumnPlusConstant, source: str) -> str:
    """Return a column plus a constant, or the median where that isn't finite."""
    value = graph.add("Add", model.column, graph.constant(float(model.plus)))
    bad = graph.add("Or", graph.add("IsNaN", value), graph.add("IsInf", value))
    return graph.add("Where", bad, graph.constant(model.median_), value)


def write_linear(graph: Graph, model: LogisticRegression | Ridge, matrix: str) -> str:
    """Return the linear predictor, or the probabilities.

    A row with an infinite number, which scikit-learn refuses, gets NaN.
    """
    coefficients = np.atleast_2d(model.coef_)
    raw = graph.add("MatMul", matrix, graph.constant(coefficients.T))
    raw = graph.add("Add", raw, graph.constant(np.reshape(model.intercept_, (1, -1))))
    raw = graph.add("Add", raw, _nan_where_infinite(graph, matrix))
    if isinstance(model, Ridge):
        return raw
    return graph.add("Sigmoid", raw) if len(coefficients) == 1 else graph.add("Softmax", raw, axis=1)


def _nan_where_infinite(graph: Graph, matrix: str) -> str:
    """Return 0 for each row, or NaN if a number of it isn't finite, shape (rows, 1)."""
    zeros = graph.add("Sub", matrix, matrix)
    return graph.add("ReduceSum", zeros, graph.constant([1], np.int64), keepdims=1)


def write_network(graph: Graph, model: MLPClassifier | MLPRegressor, matrix: str) -> str:
    """Return the prediction, or the probabilities, of a multilayer perceptron; NaN as in `write_linear`."""
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    activations = [model.activation] * (len(layers) - 1) + [model.out_activation_]
    values = matrix
    for (weights, intercept), activation in zip(layers, activations, strict=True):
        values = graph.add("MatMul", values, graph.constant(weights))
        values = graph.add("Add", values, graph.constant(intercept[None, :]))
        values = graph.add(ACTIVATIONS[activation], values)
    return graph.add("Add", values, _nan_where_infinite(graph, matrix))


def write_boosting(graph: Graph, model: Boosting, matrix: str) -> str:
    """Return the prediction, or the probabilities, of boosted trees."""
    _require_plain_codes(model)
    trees = [
        _boosted_tree(predictor, target)
        for iteration in model._predictors
        for target, predictor in enumerate(iteration)
    ]
    raw = write_trees(graph, trees, matrix, model.n_trees_per_iteration_)
    raw = graph.add("Add", raw, graph.constant(np.reshape(model._baseline_prediction, (1, -1))))
    return graph.add(LINKS[type(model._loss.link).__name__], raw)


def _require_plain_codes(model: Boosting) -> None:
    """Refuse a model that turns the codes of its categories into others before it compares them."""
    if model._preprocessor is None:
        return
    encoder = model._preprocessor.named_transformers_["encoder"]
    categories = [codes[~np.isnan(codes)] for codes in encoder.categories_]
    numbered = all(np.array_equal(codes, np.arange(len(codes))) for codes in categories)
    if not numbered or not model.is_categorical_[: len(categories)].all():
        raise ModelError(
            type(model).__name__,
            required="categories in its first columns, coded from 0 on, as by coded_columns",
            found="categorical columns elsewhere, or codes with gaps",
            remedy="prepare its columns with coded_columns of include/train/estimators.py",
        )


def _boosted_tree(predictor: Any, target: int) -> Tree:
    nodes, sets = predictor.nodes, predictor.raw_left_cat_bitsets
    categorical = np.flatnonzero((nodes["is_categorical"] == 1) & (nodes["is_leaf"] == 0))
    return Tree(
        leaf=nodes["is_leaf"] == 1,
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"],
        missing_left=nodes["missing_go_to_left"],
        left=nodes["left"].astype(np.intp),
        right=nodes["right"].astype(np.intp),
        value=nodes["value"],
        target=target,
        members={int(node): _codes(sets[nodes["bitset_idx"][node]]) for node in categorical},
    )


def _codes(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return the numbers in a bit set, which is stored as 32-bit words."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).astype(np.float64)


def write_forest(graph: Graph, model: Forest, matrix: str) -> str:
    """Return the mean of a forest's trees, by class.

    As scikit-learn, it compares in single precision. A row with a number that is infinite in it, which
    scikit-learn refuses, gets NaN.
    """
    single = graph.add("Cast", graph.add("Cast", matrix, to=FLOAT), to=DOUBLE)
    classes = _without_first_of_two(np.arange(getattr(model, "n_classes_", 1)))
    trees = [
        _forest_tree(estimator.tree_, number, target)
        for target, number in enumerate(classes)
        for estimator in model.estimators_
    ]
    total = write_trees(graph, trees, single, len(classes))
    mean = graph.add("Div", total, graph.constant(float(len(model.estimators_))))
    present = graph.add("Where", graph.add("IsNaN", single), graph.constant(0.0), single)
    return graph.add("Add", mean, _nan_where_infinite(graph, present))


def _forest_tree(tree: Any, number: int, target: int) -> Tree:
    return Tree(
        leaf=tree.children_left == -1,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.missing_go_to_left,
        left=tree.children_left,
        right=tree.children_right,
        value=tree.value[:, 0, number],
        target=target,
    )


def _write_inner(graph: Graph, model: Any, source: str) -> str:
    """Write the model that another one contains."""
    if (write := MODELS.get(type(model))) is None:
        raise ModelError(
            "ONNX",
            required="a model with a converter",
            found=type(model).__name__,
            remedy="serve a recipe with another estimator, or write a converter in include/export/models.py",
        )
    return write(graph, model, source)


def write_transformed(graph: Graph, model: TransformedTargetRegressor, matrix: str) -> str:
    """Return the prediction of a regressor that was fitted on a transformed target, in the target's unit."""
    value = _write_inner(graph, model.regressor_, matrix)
    for _, step in reversed(model.transformer_.steps):
        if isinstance(step, LogTarget):
            value = graph.add("Exp", graph.add("Min", value, graph.constant(step.highest_ + 1)))
            value = graph.add("Sub", value, graph.constant(1.0))
        else:  # a StandardScaler
            value = graph.add("Mul", value, graph.constant(step.scale_[None, :]))
            value = graph.add("Add", value, graph.constant(step.mean_[None, :]))
    return value


def write_shifted_classifier(graph: Graph, model: ShiftedClassifier, source: str) -> str:
    """Return the probabilities of a classifier with another intercept."""
    probabilities, factors = _write_inner(graph, model.model, source), np.exp(model.shift)
    if len(factors) == 2:
        second = graph.add("Mul", probabilities, graph.constant(float(factors[1])))
        first = graph.add("Sub", graph.constant(1.0), probabilities)
        first = graph.add("Mul", first, graph.constant(float(factors[0])))
        return graph.add("Div", second, graph.add("Add", first, second))
    weighted = graph.add("Mul", probabilities, graph.constant(factors[None, :]))
    return graph.add(
        "Div", weighted, graph.add("ReduceSum", weighted, graph.constant([1], np.int64), keepdims=1)
    )


def write_shifted_regressor(graph: Graph, model: ShiftedRegressor, source: str) -> str:
    """Return the value of a regressor with another intercept."""
    value = graph.add("Mul", _write_inner(graph, model.model, source), graph.constant(float(model.factor)))
    return graph.add("Add", value, graph.constant(float(model.shift)))


Write = Callable[[Graph, Any, str], str]  # from the graph, the model, and its matrix or any input
MODELS: dict[type, Write] = {
    DummyClassifier: write_constant,
    DummyRegressor: write_constant,
    ColumnPlusConstant: write_rule,
    LogisticRegression: write_linear,
    Ridge: write_linear,
    MLPClassifier: write_network,
    MLPRegressor: write_network,
    HistGradientBoostingClassifier: write_boosting,
    HistGradientBoostingRegressor: write_boosting,
    RandomForestClassifier: write_forest,
    RandomForestRegressor: write_forest,
    TransformedTargetRegressor: write_transformed,
    ShiftedClassifier: write_shifted_classifier,
    ShiftedRegressor: write_shifted_regressor,
}
# these can take the features as they are, the last one if it is of a rule; others need a matrix of them
WITHOUT_COLUMNS = (DummyClassifier, DummyRegressor, ColumnPlusConstant, ShiftedRegressor)
