"""The monitor stage: checks, performance, estimates, policy and alerts."""
