"""What a person does in Airflow's pages, and what they read there."""

from __future__ import annotations

import re
from urllib.parse import unquote

from playwright.sync_api import FrameLocator, Locator, Page, expect

from demo.home import Home

PATIENCE = 120_000  # milliseconds: other tests run beside these, and a busy machine isn't a failure
FINAL = re.compile("^(Success|Failed)$")


class Person:
    """Someone who is logged in, in a browser."""

    def __init__(self, page: Page, home: Home) -> None:
        self.page, self.url = page, home.url("airflow")
        page.goto(f"{self.url}/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", home.secrets["airflow"])
        page.click("button[type=submit]")
        page.wait_for_url(f"{self.url}/")

    def open_form(self, dag: str) -> Locator:
        """Open a DAG's page and its *Trigger* dialog, and return the dialog."""
        self.page.goto(f"{self.url}/dags/{dag}")
        self.page.get_by_test_id("trigger-dag-button").click()
        dialog = self.page.get_by_role("dialog").filter(has_text="Single Run")  # not a calendar in it
        dialog.get_by_text("Run Parameters").wait_for()
        return dialog

    def fill_in(self, dialog: Locator, **fields: str) -> None:
        """Fill in fields of the form by their names."""
        for name, value in fields.items():
            if name == "action":
                dialog.get_by_role("combobox").first.click()
                self.page.get_by_role("option", name=value).click()
            else:
                dialog.locator(f"#element_{name}").fill(value)

    def submit(self, dialog: Locator) -> None:
        """Press *Trigger*."""
        dialog.get_by_test_id("trigger-dag-submit").click()

    def trigger(self, dag: str, **fields: str) -> str:
        """Fill in a DAG's form, submit it, and return the id of the run whose page is then shown."""
        dialog = self.open_form(dag)
        self.fill_in(dialog, **fields)
        self.submit(dialog)
        self.page.wait_for_url("**/runs/**")
        return unquote(self.page.url.rpartition("/runs/")[2])

    def backfill(self, dag: str, first: str, last: str) -> str:
        """Backfill the missing runs of some days in the dialog; return what it says it is about to do."""
        dialog = self.open_form(dag)
        dialog.get_by_text("Backfill", exact=True).click()
        for number, (day, hour) in enumerate(((first, "00:00"), (last, "23:59"))):
            dialog.get_by_test_id("datetime-input").nth(number).click()
            # the popup of the first date may still be closing on a busy machine
            self.page.get_by_placeholder("YYYY/MM/DD").last.fill(day.replace("-", "/"))
            self.page.get_by_placeholder("HH:mm").last.fill(hour)
            self.page.keyboard.press("Escape")
        announcement = dialog.get_by_text(re.compile("runs? will be triggered"))
        text = announcement.inner_text()
        dialog.get_by_role("button", name="Run Backfill").click()
        dialog.wait_for(state="hidden")
        return text

    def outcome(self, run: str) -> str:
        """Wait until the page of a run shows that it has ended, and return what it shows."""
        title = self.page.get_by_role("heading", name=run).locator("xpath=..")
        return title.get_by_text(FINAL).inner_text()

    def do(self, dag: str, **fields: str) -> str:
        """Start a run by its form and wait for its end; return what its page shows."""
        return self.outcome(self.trigger(dag, **fields))

    def read_log(self, task: str, sentence: str) -> None:
        """Open the log of a task of the run whose page is shown, and look for a sentence in it."""
        self.page.get_by_role("table").get_by_role("link", name=task, exact=True).click()
        expect(self.page.get_by_text(sentence).first).to_be_visible()

    def open_usecase(self, usecase: str) -> FrameLocator:
        """Open a use case's page inside Airflow, and return its frame."""
        self.page.goto(f"{self.url}/plugin/evergreen/evergreen/usecase/{usecase}")
        return self.page.frame_locator("iframe").first
