"""A declaration's YAML is parsed once for all processes of a user, and read the same from then on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from include.errors import SpecError
from include.spec.load import read
from tests.architecture.tree import ROOT

WEEKLY = ROOT / "tests" / "usecases" / "weekly_sales"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this test a folder of temporary files that no other has written to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a declaration that may be edited."""
    return shutil.copytree(WEEKLY, tmp_path / "weekly_sales") / "usecase.yaml"


def forbid_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever parses YAML fail from now on."""

    def refuse(text: str) -> NoReturn:
        raise AssertionError("YAML is parsed")

    # by the module's name, since the package has a function of that name
    monkeypatch.setattr(sys.modules["include.spec.load"], "LOADER", refuse)


def edit(file: Path, old: str, new: str) -> None:
    """Replace a part of a declaration."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_declaration_is_parsed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reading parses no YAML and returns the same use case."""
    first = read(file)
    forbid_yaml(monkeypatch)
    assert read(file) == first
    assert read(file).digest == first.digest


def test_an_edited_declaration_is_parsed_again(file: Path) -> None:
    """Its text has another digest, so an edit takes effect at once."""
    read(file)
    edit(file, "  lookback: 4", "  lookback: 5")
    assert read(file).features.lookback == 5


def test_an_invalid_declaration_is_refused_each_time_with_its_line(file: Path, temporary: Path) -> None:
    """Only a valid one is stored."""
    edit(file, "  lookback: 4", "  lookbak: 4")
    for _ in range(2):
        with pytest.raises(SpecError, match=r"features.lookbak: unknown key.*line \d+"):
            read(file)
    assert not list(temporary.glob("*/*"))


def test_keys_that_json_would_change_are_not_stored(file: Path, temporary: Path) -> None:
    """A mapping by number is by text in JSON, so such a declaration is parsed at each reading."""
    expectation = "{type: expect_table_row_count_to_equal, kwargs: {value: {0: a}}}"
    edit(file, "      expectations:\n", f"      expectations:\n        - {expectation}\n")
    for _ in range(2):
        (source,) = read(file).sources.values()
        assert source.contract.expectations[0].kwargs == {"value": {0: "a"}}
    assert not list(temporary.glob("*/*"))


def test_stored_declarations_are_the_users_own(file: Path, temporary: Path) -> None:
    """Nobody else can list, read or write them."""
    read(file)
    (folder,) = temporary.iterdir()
    (stored,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert stored.stat().st_mode & 0o777 == 0o600
    assert json.loads(stored.read_text())["name"] == "weekly_sales"


@pytest.mark.parametrize("planted", ["open", "link", "file"])
def test_what_others_could_write_to_is_neither_read_nor_written(
    planted: str, file: Path, temporary: Path
) -> None:
    """In a folder that is open to others, a link, or a file of that name, nothing is trusted."""
    folder = temporary / f"evergreen-declarations-{os.getuid()}"
    read(file)
    (stored,) = folder.iterdir()
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"name": "planted"}))
    before = stored.read_bytes()
    if planted == "open":
        folder.chmod(0o777)
    elif planted == "link":
        folder.symlink_to(folder.rename(temporary / "elsewhere"))
    else:
        shutil.rmtree(folder)
        folder.touch()
    assert read(file).name == "weekly_sales"
    if planted != "file":
        assert [one.read_bytes() for one in folder.iterdir()] == [before]


def test_a_damaged_file_is_parsed_again(file: Path, temporary: Path) -> None:
    """A file that isn't JSON, as after a full disk, is replaced."""
    first = read(file)
    (stored,) = temporary.glob("*/*.json")
    stored.write_text("{")
    assert read(file) == first
    assert json.loads(stored.read_text())["name"] == "weekly_sales"
