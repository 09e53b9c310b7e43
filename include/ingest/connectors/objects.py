"""The object store connector: a partition is one file in an S3 bucket, or in a folder for ``file://``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from include.environment import Endpoint
from include.errors import SettingError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.spec.source import BaseSource

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

    from include.storage.spill import Data

# error codes of S3
NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
RETRYABLE = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeTooSkewed"}


class ObjectsSource(BaseSource):
    """Files in a bucket or folder, one object per partition."""

    kind: Literal["objects"]
    path: str = Field(
        description="of one object below the connection, with {day}, {hour}, {minute} or {partition}"
    )
    format: Literal["csv", "parquet", "json"] = Field(
        "csv", description="of the file, which may be compressed with gzip or zip"
    )

    @property
    def path_templates(self) -> tuple[str, ...]:
        """Return the path below the connection."""
        return (self.path,)

    @property
    def part_format(self) -> Literal["csv", "parquet", "json"]:
        """Return the format of the object."""
        return self.format


def open_source(source: ObjectsSource, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's file.

    Raises
    ------
    SettingError
        if the endpoint is neither a bucket nor a folder.
    """
    address = urlsplit(endpoint.uri)
    if address.scheme == "s3":
        read = _bucket_reader(source, endpoint, address.netloc, address.path.strip("/"))
    elif address.scheme == "file":
        read = _folder_reader(Path(unquote(address.path)))
    else:
        raise SettingError(
            f"connection {endpoint.name}",
            required="host s3://bucket[/prefix] or file:///folder",
            found=address.scheme,
        )

    def fetch(request: Request) -> Iterator[Part]:
        path = request.fill_path(source.path)
        yield path, with_retries(request, lambda: read(request, path), path)

    return fetch


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


def _bucket_reader(
    source: ObjectsSource, endpoint: Endpoint, bucket: str, prefix: str
) -> Callable[[Request, str], Data]:
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    client = _s3_client(endpoint, source.fetch.timeout)

    def read(request: Request, path: str) -> Data:
        try:
            response = client.get_object(Bucket=bucket, Key=f"{prefix}/{path}" if prefix else path)
            if response["ContentLength"] > source.fetch.max_bytes:
                raise request.too_large(path)
            return _read_limited(response["Body"], request, path)
        except ClientError as error:
            raise _translate_s3_error(request, error, path) from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise TransientError(f"{type(error).__name__} from the object store") from None

    return read


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
