"""`doctor` tries on the lake's store what tables, ledgers and raw objects need."""

from __future__ import annotations

import pytest

from include.ops import doctor
from include.storage.lake import Lake


@pytest.mark.parametrize(
    "address", ["folder", "s3", pytest.param("az", marks=pytest.mark.full)], indirect=True
)
def test_a_store_that_has_all_is_ok_and_left_as_it_was(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of store that is tried here passes, however often, and no probe stays in it."""
    monkeypatch.setenv("EVERGREEN_LAKE", address)
    for _ in range(2):
        check = doctor._probe("lake", doctor._lake, "")
        assert (check.ok, check.detail.endswith("removing work")) == (True, True), check.detail
    assert Lake("").keys("") == []
    folder = Lake("").folder
    assert folder is None or list(folder.iterdir()) == []


@pytest.mark.full
def test_a_store_whose_conditional_puts_overwrite_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rclone and s3rver do: what such a store lacks is named, and why it matters."""
    monkeypatch.setenv("EVERGREEN_LAKE", address)
    monkeypatch.setattr(Lake, "create", lambda lake, key, data: lake.replace(key, data) is None)
    check = doctor._probe("lake", doctor._lake, "")
    assert not check.ok
    assert "undo each other's commits, but found one without conditional puts, reading what" in check.detail
