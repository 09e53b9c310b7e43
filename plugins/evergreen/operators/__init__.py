"""An operator a stage: it takes the night from its run, calls one function of include/, and returns a reference."""
