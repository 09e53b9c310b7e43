"""The monitor stage: checks, performance, estimates, policy and alerts; `pipeline` runs one partition."""
