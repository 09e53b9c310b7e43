"""The commands that a person acts with: each names who and why, and the ledger keeps both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from include import spec as specs
from include.cli.options import AsJson, Debug, UseCaseName, print_result
from include.errors import NotPublished, StaleDecision

acts = typer.Typer()
By = Annotated[str, typer.Option("--by", help="Who wants it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the ledger.")]
Attempt = Annotated[str, typer.Option("--attempt", help="The beginning of its key, as `status` shows it.")]


@acts.command()
def rollback(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    to: Annotated[str | None, typer.Option("--to", help="A version; the one before, unless given.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let an earlier champion serve again, from the next partition that is not served yet."""
    from include.models.registry import Registry
    from include.promote.rollback import rollback as go_back
    from include.storage.lake import Lake

    ref = go_back(Lake(usecase), specs.load(usecase), to, by, reason, registry=Registry())
    print_result(ref.xcom(), ref.note, as_json)


@acts.command()
def approve(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    attempt: Attempt = "",
    reject: Annotated[bool, typer.Option("--reject", help="Say no.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let the challenger that waits for approval serve, or say no to it. The first answer stays."""
    from include.models.registry import Registry
    from include.promote import approval
    from include.promote.approval import find_attempt
    from include.promote.promotion import awaiting_approval, promote
    from include.storage.lake import Lake

    lake, spec = Lake(usecase), specs.load(usecase)
    row = find_attempt(lake, attempt) if attempt else awaiting_approval(lake, spec)
    if row is None:
        remedy = "`status` says what became of the last ones"
        raise NotPublished(f"{usecase}: a verdict that waits for approval", found="none", remedy=remedy)
    word = approval.REJECTED if reject else approval.APPROVED
    said = approval.record_answer(lake, spec, row["key"], word, by, reason, datetime.now(UTC))
    if said["answer"] != word:
        wanted, remedy = (
            f"no answer but {word}",
            "the first answer stays; `rollback` or `force` go on from it",
        )
        subject = f"{usecase}: attempt {row['key'][:8]}"
        raise StaleDecision(subject, required=wanted, found=approval.answer_text(said), remedy=remedy)
    promotion = None if reject else promote(lake, spec, row["key"], registry=Registry())
    if promotion and promotion.blocker:
        raise StaleDecision(
            f"{usecase}: attempt {row['key'][:8]} of {row['partition']}",
            required="a verdict that may serve",
            found=promotion.blocker,
        )
    ref = promotion.switch if promotion else None
    print_result(ref.xcom() if ref else said, ref.note if ref else approval.answer_text(said), as_json)


@acts.command()
def force(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    attempt: Attempt = "",
    partition: Annotated[str, typer.Option("--partition", help="Or its partition: the newest attempt.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let a challenger serve whatever the gate said; it shows as forced for good."""
    from include.models.registry import Registry
    from include.promote.approval import find_attempt
    from include.promote.promotion import force as overrule
    from include.reports.verdict import draw_forced
    from include.storage.lake import Lake

    lake, spec, registry = Lake(usecase), specs.load(usecase), Registry()
    row = find_attempt(lake, attempt or partition)
    ref = overrule(lake, spec, row["key"], by, reason, registry=registry)
    draw_forced(lake, spec, row["key"], registry)
    print_result(ref.xcom(), ref.note, as_json)


@acts.command()
def withdraw(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    partition: Annotated[str, typer.Option("--partition", help="The partition that should not be there.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove a partition that isn't the schedule's, or is still to come; a ledger keeps who and why."""
    from include.ops.withdrawal import withdraw as take_away
    from include.storage.lake import Lake

    ref = take_away(Lake(usecase), specs.load(usecase), partition, by, reason, now=datetime.now(UTC))
    print_result(ref.xcom(), ref.note, as_json)
