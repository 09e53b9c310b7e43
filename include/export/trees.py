"""Writes decision trees as a `TreeEnsemble`, the one operator that compares in double precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.export.graph import ML, Graph

AT_MOST, MEMBER = 0, 6  # modes of a node


@dataclass(frozen=True)
class Tree:
    """A fitted tree as arrays over its n nodes, the root first; at a leaf only ``value`` counts.

    Parameters
    ----------
    leaf : whether it is a leaf, shape (n,).
    feature : the column that is compared, shape (n,).
    threshold : a row whose value is at most this goes left, shape (n,).
    missing_left : whether a missing value (NaN) goes left, shape (n,).
    left, right : the children, shape (n,).
    value : what the tree returns at a leaf, shape (n,).
    target : the column of the output that this is added to.
    members : of each node that compares categories, the codes that go left.
    """

    leaf: NDArray[np.bool_]
    feature: NDArray[Any]
    threshold: NDArray[np.float64]
    missing_left: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    value: NDArray[np.float64]
    target: int = 0
    members: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)


def write_trees(graph: Graph, trees: Sequence[Tree], matrix: str, targets: int) -> str:
    """Return the trees' sum by target, shape (rows, targets)."""
    roots, nodes, leaves = [], 0, 0
    columns: dict[str, list[NDArray[Any]]] = {}
    for tree in trees:
        # a node's place among the inner nodes of all trees, or among the leaves
        index = np.where(tree.leaf, leaves + np.cumsum(tree.leaf), nodes + np.cumsum(~tree.leaf)) - 1
        inner = np.flatnonzero(~tree.leaf)
        left, right = tree.left[inner], tree.right[inner]
        if not len(inner):  # it is written as a node whose children are both the leaf
            inner = left = right = np.zeros(1, dtype=np.intp)
        # a set without a code is a threshold that no value is below: TreeEnsemble has no empty sets
        empty = np.isin(inner, [node for node, codes in tree.members.items() if not len(codes)])
        is_member = np.isin(inner, list(tree.members)) & ~empty
        part = {
            "nodes_featureids": np.maximum(tree.feature[inner], 0),
            "nodes_splits": np.select([is_member, empty], [0.0, -np.inf], tree.threshold[inner]),
            "nodes_modes": np.where(is_member, MEMBER, AT_MOST),
            "nodes_missing_value_tracks_true": tree.missing_left[inner],
            "nodes_truenodeids": index[left],
            "nodes_trueleafs": tree.leaf[left],
            "nodes_falsenodeids": index[right],
            "nodes_falseleafs": tree.leaf[right],
            "leaf_weights": tree.value[tree.leaf],
            "leaf_targetids": np.full(tree.leaf.sum(), tree.target),
            # each set ends with NaN
            "membership_values": np.concatenate(
                [np.zeros(0), *(np.append(tree.members[node], np.nan) for node in inner[is_member])]
            ),
        }
        for name, values in part.items():
            columns.setdefault(name, []).append(values)
        roots.append(nodes)
        nodes, leaves = nodes + len(inner), leaves + int(tree.leaf.sum())
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    attributes: dict[str, Any] = {
        name: values.astype(np.int64).tolist()
        for name, values in arrays.items()
        if name not in ("nodes_splits", "nodes_modes", "leaf_weights", "membership_values")
    }
    attributes |= {name: arrays[name].astype(np.float64) for name in ("nodes_splits", "leaf_weights")}
    attributes["nodes_modes"] = arrays["nodes_modes"].astype(np.uint8)
    if len(arrays["membership_values"]):
        attributes["membership_values"] = arrays["membership_values"]
    return graph.add("TreeEnsemble", matrix, domain=ML, tree_roots=roots, n_targets=targets, **attributes)
