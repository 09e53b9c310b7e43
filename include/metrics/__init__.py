"""What Prometheus is told of a use case: gauges of its newest nights, from the lake's tables alone."""
