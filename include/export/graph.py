"""Collects the nodes of an ONNX graph, and writes them as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ML = "ai.onnx.ml"
OPSETS = {"": 21, ML: 5}  # ML 5 has TreeEnsemble, the only trees with thresholds in double precision
IR_VERSION = 10
FLOAT, DOUBLE, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.STRING
ROWS = "rows"  # the name of the first dimension of each input


class Graph:
    """An ONNX graph in the making. Each method returns the name of the tensor that it adds.

    The names contain a double quote, which no feature's name does, so they differ from the inputs' names.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; an array among the attributes becomes a tensor."""
        name = f'{operator}"{len(self._nodes)}'
        tensors = {
            key: tensor(value) if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()
        }
        self._nodes.append(helper.make_node(operator, inputs, [name], name, domain=domain, **tensors))
        return name

    def constant(self, values: Any, dtype: type = np.float64) -> str:
        """Add an array as a constant."""
        name = f'constant"{len(self._constants)}'
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def model(
        self,
        inputs: Mapping[str, bool],
        prediction: str,
        columns: int,
        metadata: Mapping[str, str],
    ) -> bytes:
        """Return the serialized model; the same graph gives the same bytes.

        Parameters
        ----------
        inputs : by name, whether it takes numbers (float64) or else texts, each of shape (rows, 1).
        prediction : the tensor that becomes the output.
        columns : of the output, of shape (rows, columns), or (rows,) if 0.
        """
        output = "prediction" if "prediction" not in inputs else "prediction_of_the_model"
        final = helper.make_node("Identity", [prediction], [output], output)
        types = {True: DOUBLE, False: STRING}
        graph = helper.make_graph(
            [*self._nodes, final],
            "pipeline",
            [
                helper.make_tensor_value_info(name, types[is_number], [ROWS, 1])
                for name, is_number in inputs.items()
            ],
            [helper.make_tensor_value_info(output, DOUBLE, [ROWS, columns] if columns else [ROWS])],
            self._constants,
        )
        model = helper.make_model(
            graph,
            producer_name="evergreen",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in OPSETS.items()],
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def tensor(values: NDArray[Any] | Sequence[str]) -> onnx.TensorProto:
    """Return an array, or texts, as a tensor."""
    array = np.asarray(values)
    if array.dtype.kind in "OU":
        texts: Any = [str(text).encode() for text in array.ravel()]
        return helper.make_tensor("values", STRING, array.shape, texts)
    return numpy_helper.from_array(array, "values")
