"""A use case's year on one time axis: what it lost, what drifted, what alarmed, and who served."""
