"""Statistics as pure functions: intervals, alarm limits, profiles, drift measures, metrics."""
