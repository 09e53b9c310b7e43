"""A classifier that torch fits on two processes, in an environment of its own; NumPy predicts."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

PROCESSES = 2
PYTHON = "TORCH_PYTHON"  # the environment variable with the Python of torch's environment
TRAIN = Path(__file__).with_name("train.py")


class Network(ClassifierMixin, BaseEstimator):
    """One hidden layer, for two classes.

    Parameters
    ----------
    hidden : units of the hidden layer.
    epochs : passes over the rows.
    learning_rate : of Adam.
    timeout : seconds that a fit may take.
    random_state : the declaration's seed.

    Attributes
    ----------
    weights_ : each layer's weights and biases, float32; all that is stored besides the parameters.
    """

    def __init__(self, hidden=16, epochs=20, learning_rate=0.01, timeout=3600, random_state=0):
        self.hidden = hidden
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.timeout = timeout
        self.random_state = random_state

    def fit(self, rows, actual):
        """Fit on numbers, shape (n, columns), and labels 0 or 1, shape (n,)."""
        self.classes_ = np.array([0.0, 1.0])
        settings = {"seed": self.random_state, "hidden": self.hidden}
        settings |= {"epochs": self.epochs, "learning_rate": self.learning_rate}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "rows.npy", np.asarray(rows, dtype=np.float32))
            np.save(folder / "actual.npy", np.asarray(actual, dtype=np.float32))
            (folder / "settings.json").write_text(json.dumps(settings))
            run(folder, self.timeout)
            with np.load(folder / "weights.npz", allow_pickle=False) as weights:
                self.weights_ = [weights[key] for key in weights.files]
        return self

    def predict(self, rows):
        """Return 0 or 1 for each row, shape (n,)."""
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(float)

    def predict_proba(self, rows):
        """Return the probability of each class, shape (n, 2)."""
        weights_1, bias_1, weights_2, bias_2 = (array.astype(np.float64) for array in self.weights_)
        hidden = np.maximum(np.asarray(rows, dtype=np.float64) @ weights_1.T + bias_1, 0)
        probability = 1 / (1 + np.exp(-(hidden @ weights_2.T + bias_2)[:, 0]))
        return np.column_stack([1 - probability, probability])


def run(folder, timeout):
    """Run the processes in torch's environment until all have ended."""
    python = os.environ.get(PYTHON, "")
    if not os.access(python, os.X_OK):
        raise RuntimeError(
            f"{PYTHON}: expected the path of the Python of torch's environment, but found "
            f"{python or 'nothing'}; examples/torch/README.md says how to make it"
        )
    logs = [folder / f"{rank}.log" for rank in range(PROCESSES)]
    processes = []
    end = time.monotonic() + timeout
    try:
        for rank, log in enumerate(logs):
            command = [python, "-I", str(TRAIN), str(folder), str(rank), str(PROCESSES)]
            with log.open("wb") as sink:
                # without this process's environment, which has its secrets
                processes.append(subprocess.Popen(command, env={}, stdout=sink, stderr=sink))  # noqa: S603
        while (codes := [process.poll() for process in processes]) and None in codes and not any(codes):
            if time.monotonic() > end:
                raise TimeoutError(f"{TRAIN.name} has not ended within {timeout} s")
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for code, log in zip(codes, logs, strict=True):
        if code:
            raise RuntimeError(f"{TRAIN.name} failed: {log.read_text(errors='replace')[-1000:]}")
