"""Access control of the pages: a route gets a lake only through these dependencies, which ask Airflow.

A mounted app is not behind Airflow's login by itself (apache/airflow#72655). `may_enter` is a dependency of
the whole app, so a new route has it too. `Named` and `Opened` add the use case: a user with Airflow's XCom
permission on the use case's batch DAG may read its pages. Airflow accepts a bearer token or the cookie
``_token`` of a logged-in browser. Every route only reads, so a request that another site forges with that
cookie changes nothing. What a page's buttons do goes through Airflow's own API.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from fastapi import Depends, HTTPException, Request

from include.spec import UseCase, load, names

if TYPE_CHECKING:
    from include.storage.lake import Lake

_NAME = re.compile(r"[\w.-]{1,200}")  # as in Airflow's keys
may_enter = requires_access_view(AccessView.WEBSITE)


@dataclass(frozen=True)
class Open:
    """A use case that the user may read."""

    spec: UseCase
    lake: Lake


def usecase_name(usecase: str) -> str:
    """Return the use case in the route's path; raise 404 for text that no DAG id can contain."""
    if not _NAME.fullmatch(usecase):
        raise HTTPException(404, f"No use case is named {usecase[:100]!r}.")
    return usecase


def may_read(request: Request, user: GetUserDep, usecase: Annotated[str, Depends(usecase_name)]) -> None:
    """Raise 403 unless the user may read the XComs of the use case's batch DAG."""
    requires_access_dag("GET", DagAccessEntity.XCOM, f"{usecase}__batch")(request, user)


def named(usecase: str, _: Annotated[None, Depends(may_read)]) -> str:
    """Return the use case in the route's path, if the user may read it."""
    if usecase not in names():
        raise HTTPException(404, f"No use case is named {usecase!r}.")
    return usecase


def opened(usecase: Annotated[str, Depends(named)]) -> Open:
    """Return that use case's declaration and lake."""
    from include.storage.lake import Lake  # at the first request: it imports pyarrow and deltalake

    return Open(load(usecase), Lake(usecase))


def may_operate(request: Request, user: GetUserDep, usecase: str) -> bool:
    """Return whether the user may start runs of the use case's operate DAG; Airflow's API asks again."""
    return _is_allowed(requires_access_dag("POST", DagAccessEntity.RUN, f"{usecase}__operate"), request, user)


def readable(request: Request, user: GetUserDep) -> list[str]:
    """Return the names of the use cases that the user may read."""
    return [name for name in sorted(names()) if _is_allowed(may_read, request, user, name)]


def _is_allowed(authorize: Callable[..., None], *args: Any) -> bool:
    """Return whether a check of Airflow's permissions passes."""
    try:
        authorize(*args)
    except HTTPException:
        return False
    return True


Named = Annotated[str, Depends(named)]
Opened = Annotated[Open, Depends(opened)]
MayOperate = Annotated[bool, Depends(may_operate)]
Readable = Annotated[list[str], Depends(readable)]
