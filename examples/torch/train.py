"""Fits the network of `network.py`, as one of several processes: ``python train.py FOLDER RANK PROCESSES``.

It runs in torch's environment and imports nothing of Evergreen. The folder has ``rows.npy`` (n, columns),
``actual.npy`` (n,), both float32, and ``settings.json``. The first process writes ``weights.npz``: the arrays
of each layer, in order.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

BATCH = 64  # rows of each process


def main(folder: Path, rank: int, processes: int) -> None:
    """Fit a share of the rows; all processes have the same weights after each step."""
    settings = json.loads((folder / "settings.json").read_text())
    rows, actual = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("rows", "actual"))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # nobody outside this machine takes part
    torch.set_num_threads(1)  # the same rows give the same model
    torch.manual_seed(settings["seed"])
    meeting = (folder / "meeting").absolute().as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    hidden = settings["hidden"]
    network = nn.Sequential(nn.Linear(rows.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 1))
    model, loss = DistributedDataParallel(network), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    for _ in range(settings["epochs"]):
        order = torch.randperm(len(rows))  # the same in each process
        # each has as many batches as the others, who would wait for one more
        own = order[: len(rows) // processes * processes][rank::processes]
        for batch in own.split(BATCH):
            optimizer.zero_grad()
            loss(model(rows[batch])[:, 0], actual[batch]).backward()
            optimizer.step()
    if rank == 0:
        np.savez(folder / "weights.npz", *(array.detach().numpy() for array in network.state_dict().values()))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
