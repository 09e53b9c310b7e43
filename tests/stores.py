"""The settings of real servers that a lake may be on."""

from __future__ import annotations

import base64
import hmac
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from demo.home import Home
from tests.architecture.tree import ROOT

# .ci/run installs it where npm is
AZURITE = ROOT / ".azurite" / "node_modules" / "azurite"
ACCOUNT, VERSION = "evergreen", "2021-12-02"


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def s3_settings(home: Home) -> dict[str, str]:
    """Return the settings of the demo's S3 server."""
    return {
        "AWS_ACCESS_KEY_ID": home.secrets["s3_access_key"],
        "AWS_SECRET_ACCESS_KEY": home.secrets["s3_secret_key"],
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": home.url("s3"),
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def azurite(folder: Path) -> Iterator[dict[str, str]]:
    """Run Azurite, Microsoft's emulator of Azure Storage, with the container ``lake``; yield its settings."""
    node = shutil.which("node")
    if not node or not AZURITE.exists():
        pytest.skip(f"node or {AZURITE} is missing; .ci/run has the command that installs it")
    key = base64.b64encode(os.urandom(64)).decode()
    command = [node, AZURITE / "dist" / "src" / "blob" / "main.js", "--disableTelemetry", "--silent"]
    command += ["--skipApiVersionCheck", "--blobPort", "0", "--location", folder]
    with subprocess.Popen(
        command, env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            line = next((line for line in server.stdout if "listens on" in line), "it ended")
            address = f"{line.rpartition(' ')[2].strip()}/{ACCOUNT}"
            _create_container(address, key)
            yield {
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": key,
                "AZURE_STORAGE_ENDPOINT": address,
                "AZURE_ALLOW_HTTP": "true",
            }
        finally:
            server.kill()


def _create_container(address: str, key: str) -> None:
    """Create ``lake``: a request signed by the shared key, since no package of Azure's is installed."""
    date = formatdate(usegmt=True)
    text = f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{VERSION}\n"
    text += f"/{ACCOUNT}/{ACCOUNT}/lake\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), "sha256")).decode()
    headers = {"x-ms-date": date, "x-ms-version": VERSION, "Content-Length": "0"}
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    request = urllib.request.Request(f"{address}/lake?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=30).close()
