"""A connector: a partition is one member of a ZIP file in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from zipfile import BadZipFile, ZipFile

from pydantic import Field

from include.environment import Endpoint
from include.ingest.connectors.request import Request, TransientError, with_retries
from include.spec.source import BaseSource

if TYPE_CHECKING:
    from include.ingest.connectors.request import Fetcher, Part


class ArchiveSource(BaseSource):
    """Members of ZIP files, one CSV file per partition."""

    path: str = Field(description="of the ZIP file below the connection, with {day} or {partition}")
    member: str = Field(description="of the CSV file in it, with {day} or {partition}")

    @property
    def path_templates(self) -> tuple[str, ...]:
        """Return the declared paths, which `validate` checks."""
        return (self.path, self.member)


def open_source(source: ArchiveSource, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's member."""
    root = Path(unquote(urlsplit(endpoint.uri).path)).resolve()

    def read(request: Request) -> bytes:
        path, member = request.fill_path(source.path), request.fill_path(source.member)
        file = (root / path).resolve()
        if not file.is_relative_to(root):
            raise request.unavailable(f"{path}, outside of the connection's folder")
        try:
            with ZipFile(file) as archive:
                if archive.getinfo(member).file_size > source.fetch.max_bytes:
                    raise request.too_large(member)
                return archive.read(member)
        except (FileNotFoundError, KeyError):
            raise request.not_available_yet(f"{path}: {member}") from None
        except (BadZipFile, OSError) as error:
            raise TransientError(type(error).__name__) from None

    def fetch(request: Request) -> Iterator[Part]:
        member = request.fill_path(source.member)
        yield member, with_retries(request, lambda: read(request), member)

    return fetch
