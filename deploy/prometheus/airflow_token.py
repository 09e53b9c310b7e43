"""Keep a token of an Airflow user in a file: Airflow's tokens end after a day, and Prometheus can't log in.

    python airflow_token.py URL USER PASSWORD_FILE TOKEN_FILE [--every SECONDS]

It needs nothing but Python. The user needs no more than to read the DAGs: Viewer, of Airflow's roles.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen


def main() -> int:
    """Write a token once, or again and again; a try that fails leaves the old token in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", help="of Airflow, as http://airflow-apiserver:8080")
    parser.add_argument("user")
    parser.add_argument("password_file", type=Path)
    parser.add_argument("token_file", type=Path)
    parser.add_argument("--every", type=float, metavar="SECONDS", help="renew it, until stopped")
    said = parser.parse_args()
    while True:
        try:
            renew(said.url, said.user, said.password_file, said.token_file)
            failed = False
        except (OSError, ValueError, KeyError) as error:  # URLError and HTTPError are OSErrors
            sys.stderr.write(f"{said.token_file} isn't renewed: {type(error).__name__}: {error}\n")
            failed = True
        if said.every is None:
            return int(failed)
        time.sleep(min(said.every, 60) if failed else said.every)


def renew(url: str, user: str, password_file: Path, token_file: Path) -> None:
    """Log in and put the token in the file, whole: a scrape never reads half of one."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"an address that begins with http:// or https://, found {url!r}")
    login = {"username": user, "password": password_file.read_text().strip()}
    body, kind = json.dumps(login).encode(), {"Content-Type": "application/json"}
    with urlopen(Request(f"{url.rstrip('/')}/auth/token", body, kind), timeout=30) as answer:  # noqa: S310  # http(s), see above
        token = json.load(answer)["access_token"]
    new = token_file.with_suffix(".new")
    new.write_text(token)
    new.replace(token_file)


if __name__ == "__main__":
    raise SystemExit(main())
