"""Great Expectations' own Data Docs of one partition of a source, on a page that needs nothing else.

Its pages load Bootstrap, jQuery and fonts from the internet. So only its sections are drawn, in a template
with a style sheet of its own; it has no script, and a folded part opens by its link.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import pass_context

from include.errors import PYTHON, EvergreenError, NotPublished
from include.ingest.parsing.types import to_declared_types
from include.ingest.pipeline import read_snapshots
from include.ingest.validation.great_expectations import BATCH, validate_suite
from include.ingest.validation.suite import declared_source, to_suite
from include.spec import UseCase
from include.spec.partition import how_to_run
from include.storage.lake import Lake
from include.storage.snapshots import snapshots

TEMPLATES = Path(__file__).parent / "templates"
_TO_OTHER_PAGES = re.compile(r'<a href="\.\./[^"]*" *>(.*?)</a>', re.DOTALL)  # of a site that isn't drawn


class _EscapedView(DefaultJinjaPageView):
    """Great Expectations' view, which doesn't escape the cells of a table, such as an unexpected value."""

    @pass_context
    def render_content_block(self, context: Any, content_block: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a part of the page as HTML."""
        if isinstance(content_block, str):
            return escape(content_block)
        if isinstance(content_block, list):
            content_block = [escape(one) if isinstance(one, str) else one for one in content_block]
        return super().render_content_block(context, content_block, *args, **kwargs)


def data_docs(lake: Lake, spec: UseCase, source: str, partition: str) -> str:
    """Return the page as HTML: the contract as a suite, validated on all rows that the newest snapshot has.

    Rows that the contract quarantines are among them, so the page shows what they break. Rules that a suite
    can't express are listed by their names.

    Raises
    ------
    NotPublished
        when nothing was fetched, or what was fetched can't be read.
    EvergreenError
        when there are more rows than Great Expectations is given at once.
    """
    subject, declared = f"{spec.name}/{source}/{partition}: Data Docs", declared_source(spec, source)
    stored = snapshots(lake, source, [partition]).get(partition)
    if not stored:
        raise NotPublished(
            subject,
            required="a partition that was fetched",
            found="none",
            remedy=how_to_run(spec.name, partition),
        )
    rows, unreadable = read_snapshots(lake, spec, source, stored[-1:])
    if unreadable:
        raise unreadable[0]
    if len(rows) > BATCH:
        remedy = f"validate them with the suite that `{PYTHON} -m include contract` prints"
        raise EvergreenError(subject, required=f"at most {BATCH} rows", found=str(len(rows)), remedy=remedy)
    typed = pa.concat_tables(table for _, table, _ in to_declared_types(rows, declared))
    suite = to_suite(spec, source)
    document = ValidationResultsPageRenderer().render(validate_suite(suite, typed))
    page = _EscapedView(custom_views_directory=str(TEMPLATES)).render(  # type: ignore[no-untyped-call]  # its own
        document,
        template="data_docs.html",
        heading=f"{spec.name} · {source} · {partition}",
        revision=stored[-1].revision,
        not_expressed=suite["meta"]["evergreen"]["not_expressed"],
    )
    return _TO_OTHER_PAGES.sub(r"\1", str(page))
