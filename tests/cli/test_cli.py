"""A person at a shell can do what a partition does, and is told in one line what is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from include.cli import status_text
from include.cli.app import app, main
from include.cli.inspect import show_progress
from include.errors import PYTHON, EvergreenError, NotPublished, PartitionError, SpecError, StoreUnavailable
from include.ops.doctor import run_checks
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world
from tests.validate.declarations import change
from tests.warm import stand_in

ROOT = Path(__file__).parents[2]
USECASES = ROOT / "tests" / "usecases"
WEEKS = 3
SECRET = "hunter2-not-to-be-seen"
SCORED = {"product": "predictions"}
SETTINGS = ("EVERGREEN_LAKE", "EVERGREEN_CODE", "EVERGREEN_HOME", "EVERGREEN_USECASES", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell has set is none of these tests' business."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake with three partitions of the weekly use case, by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    partitions = world.write(folder / "shop", WEEKS)
    bad = folder / "shop" / "sales" / f"{partitions[1]}.csv"
    lines = bad.read_text().splitlines()
    lines[1] = lines[1].replace(",s01,", ",nowhere,")  # breaks the contract's pattern of a store
    bad.write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(USECASES))
        patch.setenv("EVERGREEN_LAKE", str(folder / "lake"))
        patch.setenv("AIRFLOW_CONN_SHOP", world.connection(folder / "shop"))
        for stage in ("ingest", "score"):
            done = CliRunner().invoke(
                app, ["run", stage, "weekly_sales", "--from", partitions[0], "--until", partitions[-1]]
            )
            assert done.exit_code == 0, (done.output, done.exception)
    return folder / "lake"


@pytest.fixture
def lake(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that lake, with the settings that lead to it."""
    shutil.copytree(made, tmp_path / "lake")
    monkeypatch.setenv("EVERGREEN_USECASES", str(USECASES))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    return tmp_path / "lake"


def call(*arguments: str) -> tuple[int, Any]:
    """Run a command with --json in this process, and return how it ended and what it said."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    return subprocess.run(
        [stand_in(), "-m", "include", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command() -> None:
    """The help is there at once and lists what there is."""
    done = shell("--help")
    assert done.returncode == 0
    for command in (
        "status",
        "validate",
        "init",
        "schema",
        "verify",
        "doctor",
        "run",
        "rollback",
        "approve",
        "force",
        "withdraw",
        "ablate",
        "contract",
        "performance",
        "history",
        "backup",
        "prune",
        "restore",
        "export",
    ):
        assert f"  {command} " in done.stdout


def test_an_error_is_one_line_and_the_end_is_1() -> None:
    """A person sees the sentence, a script sees JSON, and only --debug shows the traceback."""
    plain = shell("status", "nothing")
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr.startswith("use case 'nothing': expected one of flight_delay; create it with")
    assert len(plain.stderr.splitlines()) == 1
    as_json = shell("status", "nothing", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout) == {"error": plain.stderr.strip()}
    assert "Traceback" in shell("status", "nothing", "--debug").stderr


def test_main_ends_with_the_error_in_this_process_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without its setting ends with 1 and says which one is missing."""
    monkeypatch.setattr(sys, "argv", ["include", "status", "flight_delay"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("EVERGREEN_LAKE: expected an environment variable")


def test_status_of_an_empty_lake_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A use case that has nothing yet isn't an error."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path))
    done = CliRunner().invoke(app, ["status", "flight_delay"])
    assert done.exit_code == 0
    assert done.stdout == f"flight_delay: nothing in the lake yet (file://{tmp_path}/flight_delay)\n"


def test_status_says_how_the_partitions_went(lake: Path) -> None:
    """Partitions by outcome, rows, what was set aside and why, and who served."""
    code, said = call("status", "weekly_sales")
    assert code == 0
    (found,) = said["usecases"]
    products = {row["product"]: row for row in found["products"]}
    assert next(iter(products)) == "sales"
    assert {
        name: products["sales"][name]
        for name in ("published", "refused", "unavailable", "rows", "quarantined")
    } == {
        "published": WEEKS,
        "refused": 0,
        "unavailable": 0,
        "rows": 40 * WEEKS - 1,
        "quarantined": 1,
    }
    assert [(row["source"], row["column"], row["rows"]) for row in found["quarantine"]] == [
        ("sales", "store", 1)
    ]
    assert products["predictions"]["published"] == WEEKS
    assert found["served_by"] == {"constant": 40 * WEEKS - 1}
    assert (found["champion"], found["not_published"], found["stale"]) == (None, [], [])
    text = CliRunner().invoke(app, ["status", "weekly_sales"]).stdout
    assert "there is no champion: no model was promoted yet, and a constant serves instead" in text
    assert "sales" in text
    assert "stale" not in text


def test_performance_is_shown_as_known_then_and_now(lake: Path) -> None:
    """Two of three weeks have their labels by now, one had them on the second partition.

    None on the first.
    """
    partitions = sorted(
        row["partition"] for row in Lake("weekly_sales", str(lake)).rows("partitions", SCORED)
    )
    counts = {}
    for known in ("now", *partitions):
        code, said = call("performance", "weekly_sales", "--by", "served_by", "--as-of", known)
        assert code == 0
        counts[known] = [(row["served_by"], row["partitions"]) for row in said["rows"]]
    assert counts == {
        "now": [("constant", 2)],
        partitions[0]: [],
        partitions[1]: [("constant", 1)],
        partitions[2]: [("constant", 2)],
    }
    text = CliRunner().invoke(app, ["performance", "weekly_sales", "--as-of", partitions[0]]).stdout
    assert text == f"no labels of these partitions were known on {partitions[0]}\n"
    text = CliRunner().invoke(app, ["performance", "weekly_sales"]).stdout
    assert text.split()[:3] == ["week", "partitions", "rows"]


def test_status_shows_what_is_judged_and_keeps_all_metrics_in_json(lake: Path) -> None:
    """The table of live performance fits a terminal: the loss, the constant's, and what is required."""
    partition = max(row["partition"] for row in Lake("weekly_sales", str(lake)).rows("partitions", SCORED))
    assert call("run", "monitor", "weekly_sales", "--partition", partition)[0] == 0
    (found,) = call("status", "weekly_sales")[1]["usecases"]
    assert {"rmse", "r2", "mae", "constant:mae"} <= found["performance"]["mean"].keys()
    lines = CliRunner().invoke(app, ["status", "weekly_sales"]).stdout.partition("realized")[2].splitlines()
    assert lines[1].split() == ["partition", "rmse", "constant:rmse", "r2"]
    assert max(map(len, lines[:5])) < 120


@pytest.mark.parametrize(
    ("alarms", "checks", "counts"), [(0, 1, "0 alarms in 1 check"), (1, 126, "1 alarm in 126 checks")]
)
def test_status_counts_one_alarm_in_the_singular(alarms: int, checks: int, counts: str) -> None:
    """One alarm isn't 1 alarms."""
    row = {"check": "data", "subject": "sales", "note": "late"}
    findings = {"partition": "2024-03-11", "alarms": [row] * alarms, "checks": checks, "decision": None}
    assert next(status_text._findings({"findings": findings})) == f"\nmonitored 2024-03-11: {counts}"


@pytest.mark.full
def test_history_draws_the_watched_partitions_and_writes_the_page(lake: Path, tmp_path: Path) -> None:
    """Once a partition is watched the year has it.

    A page that can't be written is refused before the work.
    """
    assert call("history", "weekly_sales")[1]["partitions"] == 0
    partition = max(row["partition"] for row in Lake("weekly_sales", str(lake)).rows("partitions", SCORED))
    assert call("run", "monitor", "weekly_sales", "--partition", partition)[0] == 0
    code, said = call("history", "weekly_sales", "--page", str(tmp_path / "year.html"))
    assert (code, said["partitions"], said["in_alarm"]) == (0, 1, 0)
    assert said["sentence"] in (tmp_path / "year.html").read_text()
    for page, required in ((tmp_path / "none" / "a.html", "an existing folder"), (tmp_path, "of a file")):
        refused = CliRunner().invoke(app, ["history", "weekly_sales", "--page", str(page)])
        assert isinstance(refused.exception, EvergreenError)
        assert required in str(refused.exception)


def test_status_shows_what_is_not_published_and_what_is_stale(lake: Path, tmp_path: Path) -> None:
    """A partition without a file is listed with its sentence; another constant makes predictions stale."""
    usecases = tmp_path / "usecases"
    shutil.copytree(USECASES / "weekly_sales", usecases / "weekly_sales")
    change(usecases / "weekly_sales" / "usecase.yaml", "constant: 30", "constant: 31")
    (missing,) = world.partitions(1, first=WEEKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_SHOP", world.connection(tmp_path))
        assert call("run", "ingest", "weekly_sales", "--partition", missing)[0] == 1
        patch.setenv("EVERGREEN_USECASES", str(usecases))
        (found,) = call("status", "weekly_sales")[1]["usecases"]
        text = CliRunner().invoke(app, ["status", "weekly_sales"]).stdout
    (row,) = found["not_published"]
    assert (row["partition"], row["product"], row["outcome"]) == (missing, "sales", "unavailable")
    assert "sales" in row["note"]
    first, *_, last = partitions = world.partitions(WEEKS)
    stale = {(partition, "predictions") for partition in partitions}
    assert {(row["partition"], row["product"]) for row in found["stale"]} == stale
    assert f"  predictions: {WEEKS} of the partitions from {first} to {last}, the declaration has" in text


@pytest.mark.full
def test_validate_passes_the_shipped_use_case_and_the_tests_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped is sound, its SQL, estimators and expectations included."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(USECASES))
    code, answer = call("validate")
    assert (code, answer["wrong"]) == (0, [])
    assert answer["usecases"] == [
        "flight_delay",
        "columbia_minutes",
        "flight_bands",
        "flight_minutes",
        "hourly_rides",
        "weekly_sales",
    ]
    # the tests' own shop and rides have no rule of thumb among their baselines
    assert [(one["severity"], one["subject"]) for one in answer["problems"]] == [
        ("hint", "hourly_rides: training.baselines"),
        ("hint", "weekly_sales: training.baselines"),
    ]


def test_validate_warns_of_an_offset_that_moves_no_path(tmp_path: Path) -> None:
    """The partition of an hour in a path is the partition's own, whatever the offset."""
    folder = shutil.copytree(USECASES / "hourly_rides", tmp_path / "hourly_rides")
    change(folder / "usecase.yaml", "offset: 0", "offset: -1")
    code, found = call("validate", str(folder))
    assert code == 0
    (warning,) = [one for one in found["problems"] if one["severity"] == "warning"]
    assert warning["subject"] == "hourly_rides: sources.counts.offset"
    assert warning["found"] == "-1, and counts/{partition}.csv"


WRONG_HOURS = {
    "path: counts/{partition}.csv": (
        'path: "counts/{day}/{hour}.csv"',
        "hourly_rides: sources.counts.path: expected a path for each partition, but found the same for "
        "2024-11-03T0505Z and 2024-11-03T0605Z",
    ),
    "path: counts/{partition}": (
        "path: counts/{day}",
        "hourly_rides: sources.counts.path: expected a path for each partition, but found the same for ",
    ),
    'available_at: "-3m"': (
        'available_at: "+10m"',
        "sources.counts.available_at: expected the time of '5 * * * *' or earlier, because the partition's "
        "run ingests the source then, but found +10m",
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("right", WRONG_HOURS)
def test_validate_finds_what_is_wrong_in_an_hourly_declaration(right: str, tmp_path: Path) -> None:
    """A local hour in a path repeats when the clocks go back, and rows can't come after the decision."""
    wrong, said = WRONG_HOURS[right]
    folder = shutil.copytree(USECASES / "hourly_rides", tmp_path / "hourly_rides")
    spec = folder / "usecase.yaml"
    change(spec, right, wrong)
    code, found = call("validate", str(folder))
    assert (code, len(found["wrong"])) == (1, 1), found
    assert said in found["wrong"][0].replace(f" ({spec})", "")


def test_validate_finds_sql_that_does_not_run(tmp_path: Path) -> None:
    """SQL that DuckDB refuses is named by its file, without any data."""
    folder = tmp_path / "weekly_sales"
    shutil.copytree(USECASES / "weekly_sales", folder)
    sql = folder / "features.sql"
    change(sql, "spine.price,", "spine.prize,")
    code, found = call("validate", str(folder))
    assert code == 1
    assert any("prize" in sentence and str(sql) in sentence for sentence in found["wrong"])


@pytest.mark.full
def test_validate_of_one_bad_declaration_still_checks_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All use cases are checked, readable or not."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "usecase.yaml").write_text("name: broken\n")
    code, found = call("validate")
    assert (code, found["usecases"]) == (1, ["flight_delay"])
    assert len(found["wrong"]) == 1
    assert "broken/usecase.yaml" in found["wrong"][0]


class Editor(io.StringIO):
    """A terminal whose reader breaks a file once the first line is printed."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def write(self, text: str) -> int:
        """Print, and break the file."""
        self.file.write_text("SELECT nothing")
        return super().write(text)


@pytest.mark.full
def test_each_use_case_is_printed_as_soon_as_it_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL that is broken when the first line can be read is still refused in the second use case."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    for name in ("first", "second"):
        folder = shutil.copytree(USECASES / "weekly_sales", tmp_path / name)
        text = (folder / "usecase.yaml").read_text()
        (folder / "usecase.yaml").write_text(text.replace("name: weekly_sales", f"name: {name}"))
    terminal = Editor(tmp_path / "second" / "features.sql")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert app(["validate"], standalone_mode=False) == 1
    lines = terminal.getvalue().splitlines()
    assert "valid: first" in lines
    assert [line for line in lines if line.startswith("second: ")]
    assert "valid: second" not in lines


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_declaration_that_can_not_be_read_is_in_the_answer(
    command: str, lake: Path, tmp_path: Path
) -> None:
    """What was asked of all and told of some ends with 1, and the JSON says why not of all."""
    (tmp_path / "usecases" / "broken").mkdir(parents=True)
    (tmp_path / "usecases" / "broken" / "usecase.yaml").write_text("name: broken\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", f"{USECASES}{os.pathsep}{tmp_path / 'usecases'}")
        code, found = call(command)
        text = CliRunner().invoke(app, [command])
    assert (code, text.exit_code) == (1, 1)
    (sentence,) = found["wrong"]
    assert "broken/usecase.yaml" in sentence
    assert sentence in text.stdout
    sound = sum((folder / "usecase.yaml").is_file() for folder in USECASES.iterdir())
    assert len(found["usecases"]) == sound + 1  # those that come with the repository
    code, found = call(command, "weekly_sales")
    assert (code, found["wrong"]) == (0, [])


@pytest.mark.parametrize(
    ("lake", "arguments"),
    [
        ("{tmp}/file", ("status", "flight_delay")),
        pytest.param("s3://lake", ("status", "flight_delay"), marks=pytest.mark.full),
    ],
)
def test_a_store_that_is_down_is_one_sentence(lake: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """No traceback: where the lake is, and what looks at it; the same as JSON."""
    (tmp_path / "file").write_text("no folder")
    address = lake.format(tmp=tmp_path)
    down = {
        "EVERGREEN_LAKE": address,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    done = shell(*arguments, "--json", **down)
    assert (done.returncode, done.stderr) == (1, "")
    error = json.loads(done.stdout)["error"]
    assert f"{address}/flight_delay: expected a store that answers" in error
    assert error.endswith(f"run `{PYTHON} -m include doctor` to check it")
    assert SECRET not in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    "command",
    ["status", "verify", "performance", "history", "metrics", "replay", "ablate", "restore --verify-only"],
)
@pytest.mark.parametrize("lake", ["", "lake"])
def test_what_only_reads_creates_nothing(
    lake: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the lake's folder nor that of the backups, nor the use case's part of an empty lake."""
    (tmp_path / lake).mkdir(exist_ok=True)
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "backup"))
    done = CliRunner().invoke(app, [*command.split(), "flight_delay"])
    assert done.exception is None or isinstance(done.exception, SystemExit | EvergreenError)
    assert [*tmp_path.rglob("*")] == ([tmp_path / "lake"] if lake else [])


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("run", "score", "weekly_sales"), "give --partition, or for `run` --from and --until"),
        (("run", "score", "weekly_sales", "--partition", "current"), "write it as 2013-03-01, or as"),
        (("verify", "weekly_sales", "--partition", "x"), "write it as 2013-03-01, or as"),
    ],
)
def test_a_missing_partition_is_asked_for_as_the_command_line_has_it(
    arguments: tuple[str, ...], remedy: str, lake: Path
) -> None:
    """The remedy names the option or the form of a key, and no form of Airflow's."""
    with pytest.raises(PartitionError, match=remedy) as caught:
        call(*arguments)
    assert "form" not in str(caught.value)


def test_a_new_use_case_is_valid_and_carries_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the template makes is sound before anybody has changed it, and is found by its name."""
    assert call("init", "coffee_sales", "--into", str(tmp_path)) == (
        0,
        {"folder": str(tmp_path / "coffee_sales")},
    )
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    assert call("validate", "coffee_sales") == (
        0,
        {"usecases": ["coffee_sales"], "wrong": [], "problems": []},
    )
    assert "USECASE" not in (tmp_path / "coffee_sales" / "usecase.yaml").read_text().replace(
        "EVERGREEN_USECASES", ""
    )


@pytest.mark.parametrize("name", ["Coffee", "2coffee", "coffee-sales", "../coffee", "_coffee", "c" * 41, ""])
def test_a_name_that_no_use_case_can_have_is_refused(name: str, tmp_path: Path) -> None:
    """A bad name makes nothing."""
    with pytest.raises(Exception, match="a name of small letters, digits and _"):
        call("init", name, "--into", str(tmp_path / "into"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """A second `init` of the same name overwrites nothing."""
    call("init", "coffee_sales", "--into", str(tmp_path))
    file = tmp_path / "coffee_sales" / "usecase.yaml"
    file.write_text("mine")
    with pytest.raises(Exception, match="a folder that does not exist yet"):
        call("init", "coffee_sales", "--into", str(tmp_path))
    assert file.read_text() == "mine"


SAMPLE = "--sample {tmp}/rows.csv --kind regression --target sold --key item --time day"
REFUSED = {
    f"init coffee --into {{tmp}} {SAMPLE} --split {{tmp}}/rows.csv": "--split .* found Not a directory",
    "init coffee --into {tmp} --sample {tmp}/deep.jsonl": "--sample .* found maximum recursion depth",
    "contract flight_delay flights --read {tmp}/deep.jsonl": "--read .*: expected a JSON file",
    "history flight_delay --page {tmp}/missing/page.html": "--page .* found No such file",
    f"history flight_delay --page {{tmp}}/{'x' * 300}": "--page .* found File name too long",
    "replay flight_delay --from 9999-12-31": "expected a date from 1800 to 3099",
    "performance flight_delay --as-of 0001-01-01": "expected a date from 1800 to 3099",
}


@pytest.mark.parametrize("command", REFUSED)
def test_an_input_of_the_wrong_kind_is_refused_in_a_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where a folder is expected, one that can't be read or written, a day beyond the calendar."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    (tmp_path / "rows.csv").write_text("day,item,sold\n2024-01-01,tea,1\n2024-01-02,tea,2\n")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(EvergreenError, match=REFUSED[command]):
        call(*command.format(tmp=tmp_path).split())
    assert {file.name for file in tmp_path.iterdir()} == {"rows.csv", "deep.jsonl"}


def test_a_name_that_is_too_long_for_a_file_is_no_use_case() -> None:
    """`validate` takes a path as well, which the system refuses to look up."""
    code, output = call("validate", "x" * 300)
    assert (code, len(output["wrong"])) == (1, 1)


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    """`init --into` names what it can't create a folder in."""
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(SpecError, match=r"a parent folder .* found Not a directory \(.*/notes\)"):
        call("init", "coffee_sales", "--into", str(tmp_path / "notes"))


def test_verify_finds_a_sound_lake_sound(lake: Path) -> None:
    """Every snapshot, partition and model is recomputed, of all partitions or of one."""
    code, said = call("verify", "weekly_sales")
    found = said["usecases"]["weekly_sales"]
    assert (code, found["differences"], found["stale"]) == (0, [], [])
    assert (found["snapshots"], found["partitions"]) == (WEEKS, 2 * WEEKS)
    code, said = call("verify", "weekly_sales", "--partition", world.partitions(1)[0])
    assert (
        code,
        said["usecases"]["weekly_sales"]["snapshots"],
        said["usecases"]["weekly_sales"]["partitions"],
    ) == (0, 1, 2)


def damage_raw(lake: Path) -> str:
    """Change one byte of a kept file."""
    file = sorted((lake / "weekly_sales" / "raw" / "objects").rglob("*/*"))[0]
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    return file.name


def lose_raw(lake: Path) -> str:
    """Lose a kept file."""
    file = sorted((lake / "weekly_sales" / "raw" / "objects").rglob("*/*"))[0]
    file.unlink()
    return file.name


def change_a_row(lake: Path) -> str:
    """Publish other rows behind Evergreen's back."""
    store, partition = Lake("weekly_sales", str(lake)), world.partitions(1)[0]
    rows = store.read("validated_sales", {"partition": partition})
    assert rows is not None
    store.publish("validated_sales", rows.slice(1), {"partition": partition, "revision": 0})
    return f"weekly_sales/sales/{partition}"


def change_a_prediction(lake: Path) -> str:
    """Publish a partition's predictions without one of its rows."""
    store, partition = Lake("weekly_sales", str(lake)), world.partitions(2)[1]
    rows = store.read("predictions", {"partition": partition})
    assert rows is not None
    store.publish("predictions", rows.slice(1), {"partition": partition})
    return f"weekly_sales/predictions/{partition}"


@pytest.mark.parametrize("damage", [damage_raw, lose_raw, change_a_row, change_a_prediction])
def test_verify_finds_damage(damage: Callable[[Path], str], lake: Path) -> None:
    """What was changed or lost is named, and the command ends with 1."""
    subject = damage(lake)
    code, said = call("verify", "weekly_sales")
    assert code == 1
    assert any(subject in sentence for sentence in said["usecases"]["weekly_sales"]["differences"])


@pytest.mark.parametrize("folder", ["raw/snapshots/sales", "raw/objects"])
def test_verify_does_not_take_an_outage_for_damage(folder: str, lake: Path) -> None:
    """What can't be reached now was not found to differ."""
    place = lake / "weekly_sales" / folder
    assert place.is_dir()
    shutil.rmtree(place)
    place.write_text("no folder")
    with pytest.raises(StoreUnavailable):
        call("verify", "weekly_sales", "--partition", world.partitions(1)[0])


def test_verify_tells_stale_from_damaged(lake: Path) -> None:
    """Rows that changed after they were scored are damage of the source, and make the predictions stale."""
    subject = change_a_row(lake)
    found = call("verify", "weekly_sales")[1]["usecases"]["weekly_sales"]
    assert [subject in sentence for sentence in found["differences"]] == [True]
    assert (
        f"weekly_sales/predictions/{world.partitions(1)[0]} is stale: the rows of sales have changed since"
        in found["stale"]
    )


def test_running_a_partition_again_heals_it(lake: Path, tmp_path: Path) -> None:
    """A partition whose rows were changed is made anew from the bytes that were kept, without its source."""
    change_a_row(lake)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_SHOP", world.connection(tmp_path / "nobody"))
        assert call("run", "ingest", "weekly_sales", "--partition", world.partitions(1)[0])[0] == 0
    assert call("verify", "weekly_sales")[0] == 0


def spoil(shop: Path, partition: str) -> None:
    """Name a store in every row of a partition's file that no store is called."""
    file = shop / "sales" / f"{partition}.csv"
    file.write_text(file.read_text().replace(",s0", ",nowhere"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a shop whose files an empty lake can be filled from."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(USECASES))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", world.connection(tmp_path / "shop"))
    return tmp_path / "shop"


def test_an_ingest_that_publishes_not_all_ends_with_1(shop: Path) -> None:
    """A refused partition fails the command: stderr says which and why, stdout what was published."""
    good, bad = world.write(shop, 2)
    spoil(shop, bad)
    both = CliRunner().invoke(app, ["run", "ingest", "weekly_sales", "--from", good, "--until", bad])
    assert both.exit_code == 1
    assert both.stdout == f"{good}  sales published: 40 rows\n"
    refusal, summary = both.stderr.splitlines()
    assert refusal.startswith(f"{bad}  sales refused: weekly_sales/sales/{bad}: expected at most 5.0% of")
    assert summary == "run ingest weekly_sales: of 2 partitions 1 published, 1 refused"
    code, answer = call("run", "ingest", "weekly_sales", "--partition", bad)
    assert (code, [one["outcome"] for one in answer["done"]]) == (1, ["refused"])
    assert call("run", "ingest", "weekly_sales", "--partition", good)[0] == 0


def test_the_remedy_of_a_refusal_can_be_followed_at_a_shell(shop: Path) -> None:
    """A refusal names the form's field and the option, and the option publishes the corrected file."""
    (partition,) = world.write(shop, 1)
    ingest = ("run", "ingest", "weekly_sales", "--partition", partition)
    spoil(shop, partition)
    assert call(*ingest)[0] == 1
    world.write(shop, 1)
    code, answer = call(*ingest)
    assert code == 1  # the bytes that were kept first stay the partition's
    assert "*Refetch*" in answer["done"][0]["note"]
    assert "--refetch" in answer["done"][0]["note"]
    assert call(*ingest, "--refetch")[0] == 0
    with pytest.raises(EvergreenError, match="--refetch: expected stage ingest, but found score"):
        call("run", "score", "weekly_sales", "--partition", partition, "--refetch")


class Deliverer(io.StringIO):
    """A terminal whose reader delivers the last file once the first line is printed."""

    def __init__(self, shop: Path) -> None:
        super().__init__()
        self.shop = shop

    def write(self, text: str) -> int:
        """Print, and deliver."""
        world.write(self.shop, 1, first=8)
        return super().write(text)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_range_prints_each_partition_as_it_completes(
    as_json: list[str], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ninth file, delivered when the first line can be read, is published; JSON stays one object."""
    partitions = world.partitions(9)
    world.write(shop, 8)
    out, err = (io.StringIO(), Deliverer(shop)) if as_json else (Deliverer(shop), io.StringIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    ingest = ["run", "ingest", "weekly_sales", "--from", partitions[0], "--until", partitions[-1], *as_json]
    assert not app(ingest, standalone_mode=False)
    lines = (err if as_json else out).getvalue().splitlines()
    assert lines == [f"{partition}  sales published: 40 rows" for partition in partitions]
    if as_json:
        assert [one["partition"] for one in json.loads(out.getvalue())["done"]] == partitions


def test_a_rollout_over_a_range_takes_only_the_newest_served_partition(
    lake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those before it take no step, so they have no line but a warning of their number."""
    first, *_, last = world.partitions(WEEKS)
    code, answer = call("run", "rollout", "weekly_sales", "--from", first, "--until", last)
    assert (code, [one["partition"] for one in answer["done"]]) == (0, [last])
    skipped = f"rollout skips {WEEKS - 1} of {WEEKS} partitions"
    assert f"{skipped}: the rollout advances only on the newest" in caplog.text
    code, answer = call("run", "rollout", "weekly_sales", "--partition", first)
    assert f"newest scored partition, {last}" in answer["done"][0]["note"]


def test_a_range_is_scored_beyond_a_partition_without_rows(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its line says why, the others are scored, and the command fails at its end."""
    *_, last = world.partitions(WEEKS)
    missing = (date.fromisoformat(last) + timedelta(7)).isoformat()
    until = ["--from", last, "--until", missing]
    with pytest.raises(NotPublished, match=f"score: .* found none on 1 of 2, the first of them {missing};"):
        app(["run", "score", "weekly_sales", *until], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == [last, missing]
    assert "40 rows by " in lines[0]
    assert "rows to score, known by" in lines[1]


def test_a_stage_that_is_none_and_a_partition_that_is_none_are_refused(lake: Path) -> None:
    """The error lists the stages, or says which partitions are the nearest."""
    with pytest.raises(Exception, match="'guess': expected one of ingest, score, monitor, rollout, train"):
        call("run", "guess", "weekly_sales", "--partition", "2024-01-01")
    with pytest.raises(Exception, match="a partition of the schedule"):
        call("run", "ingest", "weekly_sales", "--partition", "2024-01-02")
    with pytest.raises(Exception, match="a date such as"):
        call("run", "ingest", "weekly_sales")
    with pytest.raises(
        Exception, match=r"from 2024-01-01 on, but found one before schedule\.start; choose 2024-01-01"
    ):
        call("run", "ingest", "weekly_sales", "--partition", "2023-12-25")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["run", "train", "weekly_sales"], "--from"),
        (["run", "ingest", "weekly_sales"], "--until"),
        (["force", "weekly_sales", "--by", "ada", "--reason", "a try"], "--attempt"),
    ],
)
def test_of_two_options_that_name_a_partition_none_is_ignored(
    command: list[str], option: str, lake: Path
) -> None:
    """The error names both and nothing runs: training another partition could switch the champion."""
    with pytest.raises(EvergreenError, match=r"found --.* as well; leave one of them out") as refused:
        call(*command, "--partition", "2024-01-08", option, "2024-01-15")
    assert all(name in str(refused.value) for name in ("--partition", "2024-01-08", option, "2024-01-15"))


@pytest.mark.full
def test_doctor_names_each_lack_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake and a source that work are ok, the missing registry isn't, and no secret is shown."""
    (tmp_path / "lake").mkdir()
    monkeypatch.setenv("EVERGREEN_USECASES", str(USECASES))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    world.write(tmp_path / "shop", 1)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", world.connection(tmp_path / "shop"))
    monkeypatch.setenv(
        "AIRFLOW_CONN_FLEET", json.dumps({"host": f"postgresql://me:{SECRET}@127.0.0.1:1/none"})
    )
    monkeypatch.setenv("AIRFLOW_CONN_LANDING", json.dumps({"host": "ftp://x", "password": SECRET}))
    found = {check.name: check for check in run_checks()}
    ok = {name for name, check in found.items() if check.ok}
    assert {"python", "packages", "threads", "telemetry", "lake", "source weekly_sales/sales"} <= ok
    bad = {
        "registry",
        "source flight_delay/planes",
        "source flight_delay/schedule",
        "source flight_delay/weather",
    }
    assert ok & bad == set()
    assert all(found[name].remedy for name in bad)
    assert SECRET not in repr(found)


def test_doctor_looks_at_each_connection_that_alerts_go_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook and a mail server are ok, one without address or type or unknown isn't; nothing is sent."""
    declared = shutil.copytree(USECASES / "weekly_sales", tmp_path / "weekly_sales") / "usecase.yaml"
    to = "alerts: {to: [hook, mail, typo, nobody, page, untyped, unsigned]}"
    declared.write_text(declared.read_text().replace("\nscoring:", f"\n{to}\n\nscoring:"))
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    connections: dict[str, dict[str, object]] = {
        "hook": {"conn_type": "http", "host": "http://127.0.0.1:1/in", "password": SECRET},
        "mail": {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "extra": {"to": "team@example.org", "from_email": "evergreen@example.org"},
        },
        "unsigned": {"conn_type": "smtp", "host": "127.0.0.1", "extra": {"to": "team@example.org"}},
        "typo": {"conn_type": "http", "host": f"127.0.0.1/{SECRET}"},
        "page": {"conn_type": "pager", "host": "http://127.0.0.1:1/in", "password": SECRET},
        "untyped": {"host": "http://127.0.0.1:1/in"},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    found = {check.name: check for check in run_checks() if check.name.startswith("alerts weekly_sales/")}
    assert [check.ok for check in found.values()] == [True, True, False, False, False, False, False]
    assert "AIRFLOW_CONN_NOBODY" in found["alerts weekly_sales/nobody"].remedy
    for name, kind in (("page", "pager"), ("untyped", "none")):
        detail = found[f"alerts weekly_sales/{name}"].detail
        assert f"a connection of type http, slackwebhook, smtp, but found type {kind};" in detail
    assert SECRET not in repr(found)


class Answers(BaseHTTPRequestHandler):
    """A registry that has nothing."""

    def do_GET(self) -> None:
        """Answer any question with an empty object."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815  as above

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["answers", "is down"])
def guarded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name a registry by an address that holds a password."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port if request.param == "answers" else 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
        server.shutdown()


@pytest.mark.full
def test_no_command_prints_the_registrys_password(guarded: str, lake: Path) -> None:
    """Whether the registry answers or not, its address is shown without the password in it."""
    ones = [
        ("doctor",),
        ("status",),
        ("verify", "weekly_sales"),
        ("validate",),
        ("run", "train", "weekly_sales", "--partition", world.partitions(WEEKS)[-1]),
        ("rollback", "weekly_sales", "--by", "ada", "--reason", "a try"),
    ]
    said = ""
    for arguments in ones:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        said += done.output + str(done.exception)
    assert guarded in said
    assert SECRET not in said


@pytest.mark.full
def test_a_champion_comes_to_be_and_serves_from_the_command_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest, train, score and monitor, each by its command; status and verify then agree on it."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts below the working folder
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("EVERGREEN_USECASES", str(USECASES))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", world.connection(tmp_path))
    *partitions, last = world.write(tmp_path, 16)
    call("run", "ingest", "weekly_sales", "--from", partitions[0], "--until", last)
    trained, verdict, switched = call("run", "train", "weekly_sales", "--partition", partitions[-1])[1][
        "done"
    ]
    assert verdict["note"].startswith("rubber-stamped")
    assert switched["note"].startswith("v1 promoted, champion from " + last)
    again = call("run", "train", "weekly_sales", "--partition", partitions[-1])[1]["done"]
    assert again == [trained, verdict, switched]
    for stage in ("score", "monitor"):
        assert call("run", stage, "weekly_sales", "--partition", last)[0] == 0
    (found,) = call("status", "weekly_sales")[1]["usecases"]
    assert (found["champion"]["version"], found["champion"]["effective_from"]) == ("1", last)
    assert (found["served_by"], found["findings"]["partition"]) == ({"champion": 40}, last)
    assert [row["verdict"] for row in found["attempts"]] == ["rubber-stamped"]
    text = CliRunner().invoke(app, ["status", "weekly_sales"]).stdout
    recipe, model = found["champion"]["recipe"], found["champion"]["model"]
    assert f"champion v1 ({recipe}, {model}) since partition {last}, promoted" in text
    code, verified = call("verify", "weekly_sales")
    sound = verified["usecases"]["weekly_sales"]
    fitted = [
        key for key in Lake("weekly_sales", str(tmp_path / "lake")).keys("models") if key.endswith(".skops")
    ]
    assert (code, sound["differences"], sound["models"]) == (0, [], len(fitted))
    with pytest.raises(Exception, match="weekly_sales"):
        call("rollback", "weekly_sales", "--by", "ada", "--reason", "there was none before it")


def test_rollback_without_a_champion_is_refused(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to go back to, and nothing is written."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(Exception, match="weekly_sales"):
        call("rollback", "weekly_sales", "--by", "ada", "--reason", "a try")
    assert Lake("weekly_sales", str(lake)).version("switches") == -1


def test_a_log_gets_a_line_for_each_tenth_of_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Where stderr isn't a terminal, nothing is drawn in place."""
    for completed in range(1, 173):
        show_progress("fits", completed, 172)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == f"fits                 [{'#' * 40}] 172 of 172"
    assert not any("\r" in line for line in lines)
