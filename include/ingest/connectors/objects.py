"""A partition is one file in an S3 bucket, or in a folder where the endpoint is ``file://``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from include.environment import Endpoint
from include.errors import SettingError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.ingest.parsing.limits import limit_bytes
from include.spec.source import Objects
from include.storage import spill
from include.storage.spill import Data

MISSING = {"NoSuchKey", "404", "NotFound"}
PASSING = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeTooSkewed"}


def open_source(source: Objects, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's file.

    Raises
    ------
    SettingError
        where the endpoint is neither a bucket nor a folder.
    """
    address = urlsplit(endpoint.uri)
    if address.scheme == "s3":
        read = _bucket(source, endpoint, address.netloc, address.path.strip("/"))
    elif address.scheme == "file":
        read = _folder(Path(unquote(address.path)))
    else:
        raise SettingError(
            f"connection {endpoint.name}",
            required="host s3://bucket[/prefix] or file:///folder",
            found=address.scheme,
        )

    def fetch(asked: Request) -> Iterator[Part]:
        path = asked.filled(source.path)
        yield path, with_retries(asked, lambda: read(asked, path), path)

    return fetch


def _folder(root: Path) -> Callable[[Request, str], Data]:
    def read(asked: Request, path: str) -> Data:
        file = (root / path).resolve()
        if not file.is_relative_to(root.resolve()):
            raise asked.unavailable(f"{path}, outside of the connection's folder")
        if not root.is_dir():
            raise TransientError("no folder at the connection's address")
        try:
            with file.open("rb") as stream:
                return _capped(stream, asked, path)
        except FileNotFoundError:
            raise asked.nothing(path) from None
        except OSError as error:
            raise TransientError(error.strerror or type(error).__name__) from None

    return read


def _bucket(source: Objects, endpoint: Endpoint, bucket: str, prefix: str) -> Callable[[Request, str], Data]:
    client = _client(endpoint, source.fetch.timeout)

    def read(asked: Request, path: str) -> Data:
        try:
            answer = client.get_object(Bucket=bucket, Key=f"{prefix}/{path}" if prefix else path)
            if answer["ContentLength"] > asked.source.fetch.max_bytes:
                raise asked.too_large(path)
            return _capped(answer["Body"], asked, path)
        except ClientError as error:
            raise _judged(asked, error, path) from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise TransientError(f"{type(error).__name__} from the object store") from None

    return read


def _client(endpoint: Endpoint, timeout: float) -> Any:
    try:
        return boto3.client(
            "s3",
            endpoint_url=endpoint.extra.get("endpoint_url"),
            region_name=endpoint.extra.get("region_name"),
            aws_access_key_id=endpoint.login or None,
            aws_secret_access_key=endpoint.password or None,
            # the retries are ours, so that they are the spec's and are counted
            config=Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1}),
        )
    except (BotoCoreError, ValueError, TypeError) as error:
        # its text repeats the address
        raise SettingError(
            f"connection {endpoint.name}",
            required="endpoint_url and region_name in its extra, as S3's client takes them",
            found=type(error).__name__,
        ) from None


def _judged(asked: Request, error: ClientError, path: str) -> Exception:
    """Return what an S3 error means: nothing yet, worth another attempt, or not."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in MISSING:
        return asked.nothing(path)
    found = f"{code} (HTTP {status}) from the object store"
    return TransientError(found) if status >= 500 or code in PASSING else asked.unavailable(found, path)


def _capped(stream: Any, asked: Request, path: str) -> Data:
    return spill.spill_bytes(limit_bytes(iter(lambda: stream.read(spill.PART), b""), asked, path))
