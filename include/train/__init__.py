"""A challenger is fitted on what a night could know, the same way each time it is asked for."""
