"""The commands that change what serves: roll back, approve, force, withdraw.

Each takes who did it and why, and a ledger records both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from include import spec as specs
from include.cli.options import AsJson, Debug, UseCaseName, print_result, refuse_both
from include.errors import NotPublished, StaleDecision

lifecycle = typer.Typer()
By = Annotated[str, typer.Option("--by", help="Who does this.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; recorded in the ledger.")]
Attempt = Annotated[str, typer.Option("--attempt", help="The beginning of its key, as `status` prints it.")]


@lifecycle.command()
def rollback(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    to: Annotated[
        str | None, typer.Option("--to", help="A model version. Default: the previous champion.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let an earlier champion serve again, from the next unserved partition on."""
    from include.models.registry import Registry
    from include.promote.rollback import rollback as roll_back
    from include.storage.lake import Lake

    ref = roll_back(Lake(usecase), specs.load(usecase), to, by, reason, registry=Registry())
    print_result(ref.xcom(), ref.note, as_json)


@lifecycle.command()
def approve(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    attempt: Attempt = "",
    reject: Annotated[bool, typer.Option("--reject", help="Reject the challenger.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Approve or reject the challenger that waits for approval. The first answer is final."""
    from include.models.registry import Registry
    from include.promote import approval
    from include.promote.approval import find_attempt
    from include.promote.promotion import awaiting_approval, promote
    from include.storage.lake import Lake

    lake, spec = Lake(usecase), specs.load(usecase)
    row = find_attempt(lake, attempt) if attempt else awaiting_approval(lake, spec)
    if row is None:
        remedy = "`status` lists the last attempts and their approvals"
        raise NotPublished(f"{usecase}: a verdict that waits for approval", found="none", remedy=remedy)
    answer = approval.REJECTED if reject else approval.APPROVED
    recorded = approval.record_answer(lake, spec, row["key"], answer, by, reason, datetime.now(UTC))
    if recorded["answer"] != answer:
        raise StaleDecision(
            f"{usecase}: attempt {row['key'][:8]}",
            required=f"no earlier answer, or {answer}",
            found=approval.answer_text(recorded),
            remedy="the first answer is final; use `rollback` or `force` to change what serves",
        )
    promotion = None if reject else promote(lake, spec, row["key"], registry=Registry())
    if promotion and promotion.blocker:
        raise StaleDecision(
            f"{usecase}: attempt {row['key'][:8]} of {row['partition']}",
            required="a model that can be promoted, after its approval was recorded",
            found=promotion.blocker,
            remedy="a later training promotes another one; `force` promotes this one",
        )
    ref = promotion.switch if promotion else None
    note = ref.note if ref else approval.answer_text(recorded)
    print_result(ref.xcom() if ref else recorded, note, as_json)


@lifecycle.command()
def force(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    attempt: Attempt = "",
    partition: Annotated[str, typer.Option("--partition", help="Or the partition: its newest attempt.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let a challenger serve against the gate's verdict. It stays marked as forced."""
    from include.models.registry import Registry
    from include.promote.approval import find_attempt
    from include.promote.promotion import force as force_promotion
    from include.reports.verdict import draw_forced
    from include.storage.lake import Lake

    refuse_both(("--attempt", attempt), ("--partition", partition))
    lake, spec, registry = Lake(usecase), specs.load(usecase), Registry()
    row = find_attempt(lake, attempt or partition)
    ref = force_promotion(lake, spec, row["key"], by, reason, registry=registry)
    draw_forced(lake, spec, row["key"], registry)
    print_result(ref.xcom(), ref.note, as_json)


@lifecycle.command()
def withdraw(
    usecase: UseCaseName,
    by: By,
    reason: Reason,
    partition: Annotated[str, typer.Option("--partition", help="The partition to withdraw.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove a partition that is off the schedule, in the future or too far ahead; records who and why."""
    from include.ops.withdrawal import withdraw as withdraw_partition
    from include.storage.lake import Lake

    ref = withdraw_partition(Lake(usecase), specs.load(usecase), partition, by, reason, now=datetime.now(UTC))
    print_result(ref.xcom(), ref.note, as_json)
