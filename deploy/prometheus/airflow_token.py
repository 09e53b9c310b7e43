"""Keep a valid Airflow token in a file for Prometheus, which can't log in; tokens expire after a day.

    python airflow_token.py URL USER PASSWORD_FILE TOKEN_FILE [--every SECONDS]

It needs only Python. Airflow's role Viewer is enough for the user.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen


def main() -> int:
    """Write a token once or periodically; if renewal fails, the old token stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", help="Airflow's URL, such as http://airflow-apiserver:8080")
    parser.add_argument("user")
    parser.add_argument("password_file", type=Path)
    parser.add_argument("token_file", type=Path)
    parser.add_argument("--every", type=float, metavar="SECONDS", help="renew the token until stopped")
    arguments = parser.parse_args()
    while True:
        try:
            renew(arguments.url, arguments.user, arguments.password_file, arguments.token_file)
            failed = False
        except (OSError, ValueError, KeyError) as error:  # URLError and HTTPError are OSErrors
            sys.stderr.write(f"{arguments.token_file} isn't renewed: {type(error).__name__}: {error}\n")
            failed = True
        if arguments.every is None:
            return int(failed)
        time.sleep(min(arguments.every, 60) if failed else arguments.every)


def renew(url: str, user: str, password_file: Path, token_file: Path) -> None:
    """Log in and write the token atomically, so that a scrape never reads a part of it."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"an address that begins with http:// or https://, but found {url!r}")
    login = {"username": user, "password": password_file.read_text().strip()}
    body, kind = json.dumps(login).encode(), {"Content-Type": "application/json"}
    with urlopen(Request(f"{url.rstrip('/')}/auth/token", body, kind), timeout=30) as answer:  # noqa: S310  # http(s), see above
        token = json.load(answer)["access_token"]
    new = token_file.with_suffix(".new")
    new.write_text(token)
    new.replace(token_file)


if __name__ == "__main__":
    raise SystemExit(main())
