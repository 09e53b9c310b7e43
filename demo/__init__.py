"""The demo: its servers, its data sources and the steps of `make demo`; Evergreen doesn't depend on it."""
