"""Register Evergreen's pages, links, timetable and middleware with Airflow: the only plugin file it scans.

Every task process imports this module, so it imports nothing that only the api-server needs.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from evergreen import run_note
from evergreen.deadline import PredictionsDue
from evergreen.links import PREFIX, MlflowLink, OverviewLink, ReportLink, VerdictLink, address
from evergreen.manual_run import PartitionFromForm
from evergreen.timetable import RangeTimetable, UseCaseTimetable

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none'"
    " stroke='{color}' stroke-width='2' stroke-linecap='round' stroke-linejoin='round'%3E"
    "%3Cpath d='M12 2 7 9h3l-5 7h6v6h2v-6h6l-5-7h3z'/%3E%3C/svg%3E"
)


class EvergreenPlugin(AirflowPlugin):
    """Evergreen in Airflow's UI: a page in the navigation, and buttons on the tasks."""

    name = "evergreen"
    external_views: list[Any] = [  # noqa: RUF012  # Airflow declares it as a list, and takes it from the class
        {
            "name": "Evergreen",
            "href": address("/"),
            "url_route": "evergreen",
            "destination": "nav",
            "nav_top_level": True,
            "icon": _ICON.format(color="%23202020"),
            "icon_dark_mode": _ICON.format(color="%23f0f0f0"),
        }
    ]
    # the operators declare their links themselves; this is for the list under Admin → Plugins
    operator_extra_links: list[Any] = [  # noqa: RUF012  # as above
        OverviewLink(),
        ReportLink(),
        VerdictLink(),
        MlflowLink(),
    ]

    timetables: list[Any] = [UseCaseTimetable, RangeTimetable]  # noqa: RUF012  # as above
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012  # as above
        {"middleware": PartitionFromForm, "name": "a run's partition from its form"}
    ]
    listeners: list[Any] = [run_note]  # noqa: RUF012  # as above
    deadline_references: list[Any] = [PredictionsDue]  # noqa: RUF012  # the scheduler computes deadlines with it

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]  # only the api-server asks for it
        """The pages, imported only by the api-server: FastAPI would slow down every task process."""
        from evergreen.view.app import app

        return [{"app": app, "url_prefix": PREFIX, "name": "Evergreen"}]
