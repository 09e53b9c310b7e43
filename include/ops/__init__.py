"""Operations: status, doctor, verify, backup, restore, upkeep, Prometheus."""
