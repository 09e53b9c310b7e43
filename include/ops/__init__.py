"""Operations on a lake: status, doctor, verify, withdrawal, backup, restore, upkeep, Prometheus."""
