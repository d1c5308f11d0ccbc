"""What a person does on Airflow's pages."""

from __future__ import annotations

from playwright.sync_api import Locator, Page
from stack import LOGIN, Settings

PATIENCE_MS = 90_000
"""How long a page may take on a busy machine to show what it should."""


def open_dag(page: Page, settings: Settings, dag_id: str) -> None:
    """Opens the DAG's page and logs in on the way."""
    page.goto(f"{settings.airflow_url}/dags/{dag_id}")
    user, password = LOGIN
    page.fill('input[name="username"]', user)
    page.fill('input[name="password"]', password)
    page.click('button[type="submit"]')


class TriggerForm:
    """The form behind the button `Trigger` of an open DAG's page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.get_by_role("button", name="Trigger").first.click()
        self.dialog: Locator = page.get_by_role("dialog")
        self.dialog.get_by_text("Run Parameters").wait_for()

    @property
    def send(self) -> Locator:
        return self.dialog.get_by_role("button", name="Trigger", exact=True)

    def open(self, section: str) -> None:
        self.dialog.get_by_role("button", name=section, exact=True).click()

    def field(self, name: str) -> Locator:
        return self.dialog.locator(f'input[name="element_{name}"], textarea[name="element_{name}"], #element_{name}').first

    def put(self, name: str, value: str) -> None:
        self.field(name).fill(value)
        self.field(name).blur()

    def drop_config(self, config: str) -> None:
        """Takes one of the chosen configs away."""
        self.dialog.get_by_label(f"Remove {config}").get_by_role("button").click()
