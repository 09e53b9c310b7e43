"""MLflow's server behind HTTP basic authentication, for uvicorn: `--factory mlflow_app:create`.

MLflow's own basic-auth app needs Flask-WTF, users in a database and a slow password hash per request. For one
generated password on loopback a constant-time comparison is enough. For several users, use MLflow's app.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = frozenset({"/health", "/version"})  # health checks need no password


def authenticated(app: App, user: str, password: str) -> App:
    """Return the app with HTTP basic authentication for one user and password."""
    expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        authorization = dict(scope.get("headers", [])).get(b"authorization", b"")
        if (
            scope["type"] == "lifespan"
            or scope["path"] in PUBLIC
            or hmac.compare_digest(authorization, expected)
        ):
            await app(scope, receive, send)
            return
        challenge = (b"www-authenticate", b'Basic realm="mlflow"')
        await send({"type": "http.response.start", "status": 401, "headers": [challenge]})
        await send({"type": "http.response.body", "body": b"MLflow: a user and a password are required\n"})

    return guarded


def create() -> App:
    """Migrate MLflow's tables, and return its app with the password from the environment."""
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    store = os.environ["_MLFLOW_SERVER_FILE_STORE"]
    initialize_backend_stores(store, store, os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"])
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    return authenticated(app, user, password)
