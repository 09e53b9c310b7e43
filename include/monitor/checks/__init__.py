"""The monitoring checks, one module per subject; `include.monitor.registry` lists them."""
