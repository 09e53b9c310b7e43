"""Prometheus' text format: a dozen lines, held to promtool by a test, in place of a library's registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Sample:
    """A gauge's value for one set of labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def text(samples: Iterable[Sample], about: Mapping[str, str]) -> str:
    """Return the samples as one page, the lines of a gauge together, in the order of ``about``.

    Parameters
    ----------
    about : what each gauge means, by its name.
    """
    lines: dict[str, list[str]] = {name: [] for name in about}
    for one in samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in one.labels.items())
        lines[one.name].append(f"{one.name}{{{labels}}} {one.value!r}")  # nan and inf are read as well
    heads = {name: [f"# HELP {name} {said}", f"# TYPE {name} gauge"] for name, said in about.items()}
    return "".join(f"{line}\n" for name, own in lines.items() if own for line in [*heads[name], *own])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
