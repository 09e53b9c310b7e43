"""An operator a stage: it takes the night from its run, calls a function of include/, returns a reference."""
