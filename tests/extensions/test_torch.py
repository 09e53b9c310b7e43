"""The torch example: a network that two processes fit in an environment of its own, stored as arrays."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from include.errors import SpecError
from include.evaluate.serving import measure_serving
from include.features.labels import training_set
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, target
from include.validate.pipeline import errors
from tests.extensions.conftest import BOOSTING, Declare
from tests.train import visits

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch"
NETWORK = '{name: network, estimator: "network:Network", params: {hidden: 8, epochs: 5}}'
WHERE = "it runs where pip finds it, such as with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"


@pytest.fixture
def spec(declare: Declare) -> UseCase:
    """The clinic with the network as its first candidate; the example's files are in its folder."""
    modules = {path.stem: path.read_text() for path in EXAMPLE.glob("*.py")}
    return declare({BOOSTING: NETWORK}, **modules)


@pytest.fixture
def lake(tmp_path: Path, spec: UseCase) -> Lake:
    """The clinic's lake."""
    made = Lake(spec.name, str(tmp_path / "lake"))
    visits.fill(made, spec)
    return made


def fitted(lake: Lake, spec: UseCase, recipe: Recipe) -> Pipeline:
    """Return a recipe's model of the clinic's training set."""
    return fit_recipe(spec, recipe, training_set(lake, spec, visits.LAST))


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_network_that_two_processes_fit_is_stored_as_arrays_and_served_without_torch(
    spec: UseCase, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It beats the prior, is the same twice, and a fresh process without torch predicts the same."""
    own = tmp_path / "torch" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", own.parents[1]], check=True)
    requirements = ["--quiet", "--requirement", EXAMPLE / "requirements.txt"]
    made = subprocess.run([own, "-m", "pip", "install", *requirements], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"no CPU wheel of torch ({made.stderr.decode().splitlines()[-1]}): {WHERE}")
    monkeypatch.setenv("TORCH_PYTHON", str(own))
    assert errors(spec) == []
    network, prior = spec.training.candidates[0], spec.training.baselines[0]
    models = [fitted(lake, spec, network) for _ in range(2)]
    monkeypatch.delenv("TORCH_PYTHON")
    data, again = map(artifacts.serialize, models)
    assert data == again
    with ZipFile(io.BytesIO(data)) as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".json", ".npy"}
    rows = training_set(lake, spec, visits.LAST)
    predictions = artifacts.predict(models[0], rows, spec)
    served = measure_serving(data, digest_bytes(data), spec, rows, predictions)
    assert (served.identical, served.note) == (True, "")
    others = artifacts.predict(fitted(lake, spec, prior), rows, spec)
    actual = target(spec, rows)
    loss, of_prior = (row_losses(spec.objective, actual, values).mean() for values in (predictions, others))
    assert np.isfinite(loss)
    assert loss < 0.95 * of_prior


def test_without_torchs_environment_a_training_says_how_to_make_it(spec: UseCase, lake: Lake) -> None:
    """The message has the variable that is required, and the page."""
    with pytest.raises(SpecError, match=r"TORCH_PYTHON: expected the path.*examples/torch/README\.md"):
        fitted(lake, spec, spec.training.candidates[0])


def test_a_process_that_fails_ends_the_others(
    spec: UseCase, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one fails while the first waits; the message has what the second wrote."""
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\n[ "$4" = 0 ] && exec /bin/sleep 600\necho "no module named torch" >&2; exit 1\n'
    )
    fake.chmod(0o700)
    monkeypatch.setenv("TORCH_PYTHON", str(fake))
    with pytest.raises(SpecError, match=r"train\.py failed: no module named torch"):
        fitted(lake, spec, spec.training.candidates[0])
