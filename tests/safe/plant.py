"""Secrets that are known again wherever they turn up, and where to look for them."""

from __future__ import annotations

import gzip
import json
import sqlite3
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import pyarrow.parquet

MARK = "pl4nted"


def secret(place: str) -> str:
    """Return the secret of a place; an address must quote it."""
    return f"{MARK}/{place}+w0rd"


LOGIN, PASSWORD, EXTRA, ADDRESS, TOKEN = map(secret, ("login", "password", "extra", "address", "token"))
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": secret("aws"),
    "AWS_SESSION_TOKEN": TOKEN,
    "EVERGREEN_HASH_KEY": secret("hash"),
    "MLFLOW_TRACKING_USERNAME": "evergreen",
    "MLFLOW_TRACKING_PASSWORD": secret("mlflow"),
    "AIRFLOW__CORE__FERNET_KEY": secret("fernet"),
    "AIRFLOW__API_AUTH__JWT_SECRET": secret("jwt"),
}
# basic authentication has both in one word
BASIC = b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()


def leaks(text: str) -> list[str]:
    """Return where a text has the mark, with what stands around it."""
    low = text.lower()
    return [text[max(0, at - 60) : at + 60] for mark in (MARK, BASIC.lower()) if (at := low.find(mark)) >= 0]


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Return every file below a folder as text, unpacked, with its name."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield from opened(str(file.relative_to(folder)), file.read_bytes())


def opened(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Return bytes as text, and what is packed in them: gzip, zip, Parquet and SQLite."""
    yield name, name + data.decode("utf-8", "replace")
    if data[:2] == b"\x1f\x8b":
        yield from opened(f"{name}!", gzip.decompress(data))
    elif data[:4] == b"PAR1":
        table = pyarrow.parquet.read_table(BytesIO(data))
        yield f"{name}!", f"{table.schema}{json.dumps(table.to_pylist(), default=str)}"
    elif data[:15] == b"SQLite format 3":
        database = sqlite3.connect(":memory:")
        database.deserialize(data)
        yield f"{name}!", "\n".join(database.iterdump())
    elif is_zipfile(BytesIO(data)):
        with ZipFile(BytesIO(data)) as packed:
            for one in packed.namelist():
                yield from opened(f"{name}!{one}", packed.read(one))


def found(folder: Path) -> dict[str, list[str]]:
    """Return the files below a folder that hold a secret, and where."""
    return {name: some for name, text in texts(folder) if (some := leaks(text))}


class _Echo(BaseHTTPRequestHandler):
    """Refuses, and repeats what it was asked, as S3 does where a signature is wrong."""

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(size)
        asked = "\n".join(f"{name.lower()}:{value}" for name, value in self.headers.items())
        body = (
            f"<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>{self.path}\n{asked}"
            "</CanonicalRequest></Error>"
        ).encode()
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def echo(status: int) -> Iterator[str]:
    """Let a server that refuses run, and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.status = status  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
