"""The repository's files as the rules see them, without what was made by running it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("pandas", "sklearn", "mlflow", "evidently", "great_expectations", "deltalake", "duckdb", "pyarrow")


def python_files(*folders: str) -> list[str]:
    """Return the Python files below the folders, as paths from the root."""
    return sorted(
        name for name in files() if name.endswith(".py") and any(name.startswith(f"{f}/") for f in folders)
    )


def files() -> Iterator[str]:
    """Return every file that is or could be committed, as a path from the root."""
    yield from _below(ROOT)


def _below(folder: Path) -> Iterator[str]:
    for entry in sorted(folder.iterdir()):
        made = entry.name == "__pycache__" or (entry.name.startswith(".") and entry.name != ".ci")
        if entry.is_dir() and not made:
            yield from _below(entry)
        elif entry.is_file():
            yield str(entry.relative_to(ROOT))
