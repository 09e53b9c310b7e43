"""The model card of an ONNX file, in Markdown: what it predicts, from what, how well, and how to score."""

from __future__ import annotations

from include.export.pipeline import Export
from include.models.encoding import MISSING
from include.reports.html import Line, Section, Table, escape_markdown, figure, markdown, metric_label
from include.reports.wording import action_rule, better_direction
from include.spec import UseCase
from include.train.recipes import recipes_by_name

SCORE = """\
import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
rows = [json.loads(line) for line in sys.stdin]
feeds = {}
for field in session.get_inputs():
    is_text = field.type == "tensor(string)"
    missing, dtype = ("<missing>", object) if is_text else (float("nan"), float)
    values = [missing if row.get(field.name) is None else row[field.name] for row in rows]
    feeds[field.name] = np.array(values, dtype).reshape(-1, 1)
print(session.run(None, feeds)[0].tolist())
"""


def onnx_card(spec: UseCase, export: Export, file: str) -> str:
    """Return the card.

    Parameters
    ----------
    file : the name of the ONNX file beside it.
    """
    sections = (_model(spec, export), _inputs(spec), _output(spec), _metrics(spec, export))
    parts = [
        f"# {escape_markdown(file)}",
        *map(markdown, sections),
        "## How to score",
        "`score.py` needs `onnxruntime` alone. It reads one JSON object for each row; a value that is null "
        "or left out is missing.",
        f"```python\n{SCORE}```",
        "```\npython score.py FILE.onnx < rows.jsonl\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _model(spec: UseCase, export: Export) -> Section:
    recipe = recipes_by_name(spec).get(export.recipe)
    compared = export.compared
    difference = f"at most {compared.difference:.2g}, on {compared.rows:,} rows of {compared.partition}"
    rows: list[Line] = [
        ["Use case", spec.name],
        ["Version", export.version or "none"],
        ["Recipe", export.recipe or "not recorded"],
        ["Estimator", recipe.estimator if recipe else "no longer declared"],
        ["Fitted until", export.fitted_until or "not recorded"],
        ["Verdict", export.verdict or "not judged"],
        ["Difference from the model", difference if compared.rows else "not measured: no partition has rows"],
        ["Model, SHA-256", export.model],
        ["This file, SHA-256", export.file],
    ]
    return Section("Model", spec.problem.statement, [Table(["", ""], rows)])


def _inputs(spec: UseCase) -> Section:
    lead = (
        "One tensor for each feature, of shape (rows, 1). An empty text isn't a missing one. A text that "
        "training never saw is allowed. A number that the model refuses, such as infinity, gives NaN for "
        "its row."
    )
    rows: list[Line] = [
        [name, "float64", "NaN"] if name in spec.features.numeric else [name, "string", MISSING]
        for name in spec.features.columns
    ]
    return Section("Inputs", lead, [Table(["Feature", "Type", "If missing"], rows)])


def _output(spec: UseCase) -> Section:
    problem = spec.problem
    shape, meaning = "(rows,)", f"{problem.target}, in its unit"
    if problem.codes:
        meaning = f"the probability of {problem.target}"
    if problem.classes:
        shape = f"(rows, {len(problem.classes)})"
        meaning = f"the probability of each class, in the order {', '.join(problem.classes)}"
    action = f" The action: {action_rule(problem)}." if problem.costs else ""
    return Section("Output", f"float64 of shape {shape}: {meaning}.{action}")


def _metrics(spec: UseCase, export: Export) -> Section:
    if not export.metrics:
        return Section("Metrics", "None: the model wasn't judged.")
    lead = (
        f"Of its recipe on {export.test_rows:,} rows, each predicted by a fit that hadn't seen it. In "
        "brackets: whether more or less is better."
    )
    rows: list[Line] = [
        [f"{metric_label(name)} ({better_direction(name, spec)})", figure(value)]
        for name, value in export.metrics.items()
    ]
    return Section("Metrics", lead, [Table(["Metric", "Value"], rows)])
