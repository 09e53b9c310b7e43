"""Promote: the ledgers of verdicts and switches, promotion, approval, trials, rollback."""
