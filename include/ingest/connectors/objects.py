"""The object store connector: a partition is one or several files in an S3 bucket, or a folder for ``file://``.

With a ``*`` in its path, a partition is all files that match, in the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from include.environment import Endpoint
from include.errors import SettingError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.spec.source import BaseSource, added_field

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

    from include.storage.spill import Data

ListFiles = Callable[["Request", str], Iterator[str]]  # from what the paths begin with, to the paths
# error codes of S3
NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
RETRYABLE = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeTooSkewed"}


class ObjectsSource(BaseSource):
    """Files in a bucket or folder: one per partition, or all whose path matches one with ``*``."""

    kind: Literal["objects"]
    path: str = Field(
        description="of an object below the connection, with {day}, {hour}, {minute} or {partition}; or of "
        "several, where * stands for any part of a name, as items/{day}/*.csv"
    )
    format: Literal["csv", "parquet", "json"] = Field(
        "csv", description="of the file, which may be compressed with gzip or zip"
    )

    delimiter: str = added_field(
        ",", pattern=r"^[\t -~]$", description='between the fields of a CSV file, such as ";"'
    )

    @model_validator(mode="after")
    def _delimits_fields(self) -> ObjectsSource:
        if self.delimiter != "," and self.format != "csv":
            raise ValueError(f"delimiter: only of format csv, but found {self.format}")
        return self

    @property
    def path_templates(self) -> tuple[str, ...]:
        """Return the path below the connection."""
        return (self.path,)

    @property
    def part_format(self) -> Literal["csv", "parquet", "json"]:
        """Return the format of the object."""
        return self.format

    @property
    def csv_delimiter(self) -> str:
        """Return the delimiter of the object."""
        return self.delimiter


def open_source(source: ObjectsSource, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's file, or each of its files.

    Raises
    ------
    SettingError
        if the endpoint is neither a bucket nor a folder.
    """
    address = urlsplit(endpoint.uri)
    if address.scheme == "s3":
        read, list_files = _bucket(source, endpoint, address.netloc, address.path.strip("/"))
    elif address.scheme == "file":
        root = Path(unquote(address.path))
        read, list_files = _folder_reader(root), partial(_list_folder, root)
    else:
        raise SettingError(
            f"connection {endpoint.name}",
            required="host s3://bucket[/prefix] or file:///folder",
            found=address.scheme or "no scheme",
            remedy=f"correct its host in Airflow or in AIRFLOW_CONN_{endpoint.name.upper()}",
        )

    def fetch(request: Request) -> Iterator[Part]:
        path = request.fill_path(source.path)
        names = [path]
        if "*" in path:
            names = with_retries(request, partial(_matching, request, path, list_files), path)
        total_size = 0
        for number, name in enumerate(names, 1):
            data = with_retries(request, partial(read, request, name), name)
            total_size += len(data)
            if total_size > source.fetch.max_bytes:
                raise request.too_large(f"{path}, {number} files together")
            yield name, data

    return fetch


def _matching(request: Request, path: str, list_files: ListFiles) -> list[str]:
    """Return the paths that match one with ``*``, in order; a name that begins with a dot isn't a match.

    Raises
    ------
    NotAvailableYet, PartitionRefused
        if none matches, or more than ``fetch.max_pages`` do.
    """
    name_part = r"(?!(?<![^/])\.)[^/]*"
    pattern = re.compile(name_part.join(map(re.escape, path.split("*"))))
    most, names = request.source.fetch.max_pages, []
    for name in list_files(request, path.partition("*")[0]):
        if pattern.fullmatch(name):
            names.append(name)
        if len(names) > most:
            raise request.too_many_files(path)
    if not names:
        raise request.not_available_yet(path)
    return sorted(names)


def _list_folder(root: Path, request: Request, prefix: str) -> Iterator[str]:
    """Yield the paths of the files in the folder of a prefix and below."""
    folder = root / prefix.rpartition("/")[0]
    if not folder.resolve().is_relative_to(root.resolve()):
        raise request.unavailable(f"{prefix}, outside of the connection's folder")
    if not root.is_dir():
        raise TransientError("no folder at the connection's address")
    for file in folder.rglob("*"):
        if file.is_file():
            yield file.relative_to(root).as_posix()


def _folder_reader(root: Path) -> Callable[[Request, str], Data]:
    def read(request: Request, path: str) -> Data:
        file = (root / path).resolve()
        if not file.is_relative_to(root.resolve()):
            raise request.unavailable(f"{path}, outside of the connection's folder")
        if not root.is_dir():
            raise TransientError("no folder at the connection's address")
        try:
            with file.open("rb") as stream:
                return _read_limited(stream, request, path)
        except FileNotFoundError:
            raise request.not_available_yet(path) from None
        except OSError as error:
            raise TransientError(error.strerror or type(error).__name__) from None

    return read


def _bucket(
    source: ObjectsSource, endpoint: Endpoint, bucket: str, prefix: str
) -> tuple[Callable[[Request, str], Data], ListFiles]:
    """Return functions that read an object and that list those whose path begins with a prefix."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    client = _s3_client(endpoint, source.fetch.timeout)
    below = f"{prefix}/" if prefix else ""

    @contextmanager
    def translated_errors(request: Request, path: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise _translate_s3_error(request, error, path) from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise TransientError(f"{type(error).__name__} from the object store") from None

    def list_files(request: Request, start: str) -> Iterator[str]:
        with translated_errors(request, start):
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below + start)
            for page in pages:
                yield from (item["Key"].removeprefix(below) for item in page.get("Contents", ()))

    def read(request: Request, path: str) -> Data:
        with translated_errors(request, path):
            response = client.get_object(Bucket=bucket, Key=below + path)
            if response["ContentLength"] > source.fetch.max_bytes:
                raise request.too_large(path)
            return _read_limited(response["Body"], request, path)

    return read, list_files


def _s3_client(endpoint: Endpoint, timeout: float) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.client(
            "s3",
            endpoint_url=endpoint.extra.get("endpoint_url"),
            region_name=endpoint.extra.get("region_name"),
            aws_access_key_id=endpoint.login or None,
            aws_secret_access_key=endpoint.password or None,
            # `with_retries` retries as the spec declares
            config=Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1}),
        )
    except (BotoCoreError, ValueError, TypeError) as error:
        # the error's text repeats the address, so only its type is shown
        raise SettingError(
            f"connection {endpoint.name}",
            required="endpoint_url and region_name in its extra, in the form that boto3 accepts",
            found=type(error).__name__,
            remedy=f"correct the connection in Airflow or in AIRFLOW_CONN_{endpoint.name.upper()}, or the "
            "environment's AWS_*",
        ) from None


def _translate_s3_error(request: Request, error: ClientError, path: str) -> Exception:
    """Return Evergreen's error for an S3 error: no data yet, worth a retry, or final."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in NOT_FOUND:
        return request.not_available_yet(path)
    message = f"{code} (HTTP {status}) from the object store"
    return (
        TransientError(message) if status >= 500 or code in RETRYABLE else request.unavailable(message, path)
    )


def _read_limited(stream: Any, request: Request, path: str) -> Data:
    from include.ingest.parsing.limits import limit_bytes
    from include.storage import spill

    chunks = iter(lambda: stream.read(spill.CHUNK_BYTES), b"")
    return spill.spill_bytes(limit_bytes(chunks, request, path))
