"""Python that a declaration names as ``module:name``: in the use case's own folder, or an installed package.

A module of the folder is imported as ``evergreen_usecases.<use case>.<module>``, so two use cases may both
have a ``features.py``, and one module imports another by ``from . import other``. A plain name may be
registered by an installed package, as an entry point of the group ``evergreen.<kind>``, see `KINDS`.

Nothing is imported to read a declaration or to compute its digest: DAG files do both when they are parsed.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, NoReturn

from include.environment import redact
from include.errors import EvergreenError, SpecError
from include.references import digest_bytes, digest_json

KINDS = (
    "estimators",
    "features",
    "row_checks",
    "gate_checks",
    "metrics",
    "objectives",
    "connectors",
    "alert_channels",
)
REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
PACKAGE = "evergreen_usecases"  # what the modules of the folders are imported under
_lock = RLock()  # the pages import in several threads


@dataclass(frozen=True)
class CodeReference:
    """One piece of Python that a use case declares.

    Parameters
    ----------
    folder : the use case's.
    key : where the declaration names it, as ``training.nearest``.
    name : as ``module:name``.
    """

    folder: Path
    key: str
    name: str

    @property
    def module(self) -> str:
        """The part of its name before the colon."""
        return self.name.partition(":")[0]

    @property
    def file(self) -> Path | None:
        """The file of its module; None if there is none."""
        return own_file(self.folder, self.module) or _installed_file(self.module)

    def digest(self) -> Any:
        """Return the digest of its bytes, as plain values.

        It is of all Python files of the folder except tests; or of the module of a package, with the name and
        version of its distribution.
        """
        if own_file(self.folder, self.module):
            return _folder_digest(self.folder)
        owners = sorted(metadata.packages_distributions().get(self.module.partition(".")[0], ()))
        versions = [[owner, metadata.version(owner)] for owner in owners]
        return [versions, digest_bytes(self.file.read_bytes()) if self.file else ""]

    def load(self) -> Any:
        """Import the module and return what is named, always from the files' present bytes.

        Raises
        ------
        SpecError
            if it can't be imported, or has no such name.
        """
        try:
            module = _import(self.folder, self.module)
        except (Exception, SystemExit) as error:
            self.fail(f"a module {self.module} that can be imported", error)
        attribute = self.name.partition(":")[2]
        if not hasattr(module, attribute):
            own = [name for name, value in vars(module).items() if _is_defined_in(value, module)]
            self.fail(f"the name {attribute} in the module", f"only {', '.join(own) or 'none'}")
        return getattr(module, attribute)

    def call(
        self, required: str, function: Callable[..., Any], *arguments: Any, has_secrets: bool = False
    ) -> Any:
        """Return what its function returns.

        Parameters
        ----------
        required : what the function has to do, for the error message.
        has_secrets : whether it gets an address or a secret; then only the type of what it raises is shown.

        Raises
        ------
        SpecError
            with the file and line of whatever it raises. Errors of Evergreen's own pass.
        """
        try:
            return function(*arguments)
        except (EvergreenError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            self.fail(required, error, has_secrets=has_secrets)

    def fail(
        self, required: str, problem: str | BaseException, value: Any = None, *, has_secrets: bool = False
    ) -> NoReturn:
        """Raise the SpecError of this code.

        Parameters
        ----------
        problem : what is there instead, or what was raised.
        value : the function or class that is at fault, if nothing was raised.
        has_secrets : as in `call`.
        """
        cause = problem if isinstance(problem, BaseException) else None
        text = describe(cause) if cause else str(problem)
        text = type(cause).__name__ if cause and has_secrets else text
        location = location_of(cause, self.folder, self.file) if cause else _definition(value)
        remedy = "correct the code there, or what usecase.yaml declares"
        if isinstance(cause, ModuleNotFoundError) and own_file(self.folder, cause.name or ""):
            remedy = f"write `from . import {cause.name}`, since the file lies beside it"
        raise SpecError(
            f"{self.folder.name}: {self.key}",
            required=f"{required} ({self.name})",
            found=text,
            where=location or str(self.file or self.folder),
            remedy=remedy,
        ) from (None if has_secrets else cause)

    def custom_types(self, names: Collection[str]) -> set[str]:
        """Return those of some dotted names that are classes which the module of a declared class defines."""
        is_own = own_file(self.folder, self.module) is not None
        module = f"{PACKAGE}.{self.folder.resolve().name}.{self.module}" if is_own else self.module
        # a package may define a class in one of its modules, and name it in another
        prefix = module if is_own else module.partition(".")[0]
        if not any(name.startswith(f"{prefix}.") for name in names):
            return set()  # without an import: what is wrong with this module isn't a problem of other models
        declared_in = getattr(self.load(), "__module__", module)
        modules = {module, *([declared_in] if declared_in.startswith(f"{prefix}.") else [])}
        return set(names) & {
            f"{name}.{value.__qualname__}"
            for name in modules
            for value in vars(sys.modules[name]).values()
            if isinstance(value, type) and value.__module__ == name
        }


def is_reference(name: str) -> bool:
    """Return whether a name refers to Python, and not to something built in."""
    return ":" in name


@cache
def registered(kind: str) -> dict[str, str]:
    """Return what installed packages register of a kind: its ``module:name`` by its plain name."""
    points = metadata.entry_points(group=f"evergreen.{kind}")
    return {point.name: f"{point.module}:{point.attr}" for point in points}


def own_file(folder: Path, module: str) -> Path | None:
    """Return the file of a module of a use case's folder; None if it has no such module."""
    base = folder.joinpath(*module.split("."))
    return next((f for f in (base.with_name(f"{base.name}.py"), base / "__init__.py") if f.is_file()), None)


def describe(error: BaseException) -> str:
    """Return an exception in one line, without the environment's secrets."""
    return redact(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def location_of(error: BaseException, folder: Path, file: Path | None = None) -> str:
    """Return ``file:line`` of the innermost place of an exception in a folder or a file, or empty."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(folder.resolve()) or f.filename == str(file)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _definition(value: Any) -> str:
    """Return ``file:line`` of a function or class, or empty."""
    try:
        return f"{inspect.getsourcefile(value)}:{inspect.getsourcelines(value)[1]}"
    except (TypeError, OSError):
        return ""


def _is_defined_in(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__name__")


def _folder_digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*.py") if _is_hashed(file.relative_to(folder)))
    return digest_json([[str(file.relative_to(folder)), digest_bytes(file.read_bytes())] for file in files])


def _is_hashed(file: Path) -> bool:
    is_test = file.name.startswith("test_") or file.name == "conftest.py"
    return not is_test and not any(part.startswith(".") for part in file.parts)


def _installed_file(module: str) -> Path | None:
    """Return the file of an installed module, without importing a package that it is in; or None."""
    name, *parts = module.split(".")
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        return None
    for part in parts:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations or ()) if spec else None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _import(folder: Path, module: str) -> ModuleType:
    folder = folder.resolve()
    if not own_file(folder, module):
        return importlib.import_module(module)
    with _lock:
        root, package = PACKAGE, f"{PACKAGE}.{folder.name}"
        if root not in sys.modules:
            sys.modules[root] = _package(root, ())
            sys.meta_path.insert(0, _Finder())  # before the one that uses stored bytecode
        state = (str(folder), _folder_digest(folder))
        if getattr(sys.modules.get(package), "state", None) != state:  # edited since, or another folder's
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
                del sys.modules[name]
            sys.modules[package] = _package(package, (str(folder),))
            vars(sys.modules[package])["state"] = state
        return importlib.import_module(f"{package}.{module}")


def _package(name: str, path: Sequence[str]) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = list(path)
    return package


class _Finder:
    """Finds the modules of the use cases' folders."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, _: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{PACKAGE}.") or not path:
            return None
        part = name.rpartition(".")[2]
        file, folder = own_file(Path(path[0]), part), Path(path[0], part)
        if file:
            inside = [str(folder)] if file.parent == folder else None
            loader = _Loader(name, str(file))
            return spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)
        if not folder.is_dir():
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


class _Loader(SourceFileLoader):
    """Compiles the source each time: stored bytecode may be older by less than a second."""

    def path_stats(self, path: Any) -> Any:
        """Keep `get_code` from reading or writing bytecode."""
        raise OSError
