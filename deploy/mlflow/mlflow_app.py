"""MLflow's server behind HTTP basic authentication, for uvicorn: `--factory mlflow_app:create`.

MLflow's own basic-auth app needs Flask-WTF, users in a database and a slow password hash a request. One
generated password on loopback needs a comparison in constant time. Where several people work, use theirs.
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

OPEN = frozenset({"/health", "/version"})  # what tells whether the server is up, and nothing else


def authenticated(app: App, user: str, password: str) -> App:
    """The same app, open only to requests that carry this user and password."""
    expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", [])).get(b"authorization", b"")
        if scope["type"] == "lifespan" or scope["path"] in OPEN or hmac.compare_digest(given, expected):
            await app(scope, receive, send)
            return
        challenge = (b"www-authenticate", b'Basic realm="mlflow"')
        await send({"type": "http.response.start", "status": 401, "headers": [challenge]})
        await send({"type": "http.response.body", "body": b"MLflow: a user and a password are required\n"})

    return guarded


def create() -> App:
    """Bring MLflow's tables up to date and give its app, guarded by the password in the environment."""
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    store = os.environ["_MLFLOW_SERVER_FILE_STORE"]
    initialize_backend_stores(store, store, os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"])
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    return authenticated(app, user, password)
