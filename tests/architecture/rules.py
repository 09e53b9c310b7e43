"""The style's rules, each a function from a file's text to what breaks it: nothing, if the file is well."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
RUNS_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FLIGHT_WORDS = re.compile(r"flight|carrier|tailnum|airport|airline", re.IGNORECASE)
SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|WITH|COPY|ATTACH|SET|PRAGMA)\s")
# put together here so that this file does not hold what it forbids
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("proxy", "golang", "org"),
        ("conda", "anaconda", "org"),
        ("registry-1", "docker", "io"),
    )
)


def imported(text: str) -> set[str]:
    """Return the dotted name of every module a file imports, also inside functions and by a literal name."""
    return set(_imported(ast.parse(text)))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            stem = module if module.endswith(".") else f"{module}."
            yield from (f"{stem}{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in {"import_module", "__import__"}:
            yield from (
                str(a.value)
                for a in node.args[:1]
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )


def imports_of(text: str, *packages: str) -> list[str]:
    """Return what a file imports from the packages."""
    return sorted(name for name in imported(text) if name.split(".")[0] in packages)


def beyond_spec(text: str) -> list[str]:
    """Return what a file imports from include that is not include.spec."""
    found = imports_of(text, "include")
    return [name for name in found if name != "include" and not f"{name}.".startswith("include.spec.")]


def other_usecases(text: str, own: str) -> list[str]:
    """Return the use cases that a file of the use case ``own`` imports, relatively or by their name."""
    found = []
    for name in imported(text):
        parts = name.split(".")
        if (name.startswith("include.usecases.") and parts[2] != own) or name.startswith(".."):
            found.append(name)
    return sorted(found)


def bad_names(path: str) -> list[str]:
    """Return the parts of a path that name a drawer and not a thing."""
    return [part for part in path.split("/") if part.removesuffix(".py") in FORBIDDEN_NAMES]


def runs_code(text: str) -> list[str]:
    """Return what could run code that came as data: pickles, eval, a shell, an unsafe YAML loader."""
    found = [name for name in imported(text) if name.split(".")[0] in RUNS_CODE]
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.load_all"}:
            found.append(name)
        if name.startswith("yaml.") and name.split(".")[1] in {"unsafe_load", "full_load", "unsafe_load_all"}:
            found.append(name)
        if name.split(".")[-1] in {"read_pickle", "to_pickle", "getoutput", "getstatusoutput"}:
            found.append(name)
        found += [
            f"{name}({keyword.arg}=…)"
            for keyword in node.keywords
            if keyword.arg in {"shell", "allow_pickle"} and ast.unparse(keyword.value) != "False"
        ]
    return found


def pasted_sql(text: str) -> list[str]:
    """Return what puts values into SQL's text: a pasted statement, or a call that is handed one."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if _pastes(node) and SQL.match(_words(node)):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and _name(node.func) in {"execute", "executemany", "sql", "text"}:
            found += [ast.unparse(node) for given in node.args[:1] if _pastes(given)]
    return found


def _pastes(node: ast.AST) -> bool:
    """Return whether an expression makes text from a template and something else."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return not isinstance(node.right, ast.Constant) and _words(node) != ""
    return isinstance(node, ast.Call) and _name(node.func) == "format" and _words(node) != ""


def _words(node: ast.AST) -> str:
    """Return the template's words before the first value, empty where none is written there."""
    if isinstance(node, ast.JoinedStr):
        return _words(node.values[0]) if node.values else ""
    if isinstance(node, ast.BinOp):
        return _words(node.left)
    if isinstance(node, ast.Call):
        return _words(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def reads_clock(text: str) -> list[str]:
    """Return each call that asks what time it is."""
    calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return sorted(
        name
        for name in calls
        if re.fullmatch(r"(.*\.)?(now|utcnow|today|time\.time|time_ns|localtime)", name)
    )


def error_kinds(texts: Iterable[str]) -> set[str]:
    """Return the names of EvergreenError and of the classes in the files that derive from it."""
    classes = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    kinds, count = {"EvergreenError"}, 0
    while count < len(kinds):
        count = len(kinds)
        kinds |= {one.name for one in classes if any(_name(base) in kinds for base in one.bases)}
    return kinds


def without_remedy(text: str, kinds: Collection[str]) -> list[str]:
    """Return each construction of an error that names no remedy, and each function that allows for none."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _name(node.func) in kinds:
            remedies = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "remedy"]
            found += [ast.unparse(node)] if remedies in ([], ["''"]) else []
        elif isinstance(node, ast.FunctionDef) and node.name != "__init__":
            arguments = ast.unparse(node.args)
            found += [f"{node.name}({arguments})"] if "remedy: str=''" in arguments else []
    return found


def flight_words(text: str) -> list[str]:
    """Return the words that belong to one use case."""
    return sorted({word.lower() for word in FLIGHT_WORDS.findall(text)})


def registry_hosts(text: str) -> list[str]:
    """Return the package registries that a text names."""
    return [host for host in REGISTRIES if host in text]


def requirements(text: str) -> dict[str, str]:
    """Return the requirement and its reason by name, of a file that a person wrote."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", "-"))]
    split = [line.partition("#") for line in lines]
    return {canonical(left): reason.strip() for left, _, reason in split}


def locked(text: str) -> set[str]:
    """Return the names that a lock pins to one version with at least one hash."""
    entries = re.split(r"\n(?=\S)", text)
    return {
        canonical(entry)
        for entry in entries
        if re.match(r"[\w.\-\[\]]+==\S+", entry) and "--hash=sha256:" in entry
    }


def canonical(requirement: str) -> str:
    """Return the distribution's name as registries compare it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
