"""The promote stage: the ledgers of verdicts and switches, promotion, approval, rollback."""
