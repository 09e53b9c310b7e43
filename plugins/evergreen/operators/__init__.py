"""One operator per stage: it calls a function of include/ for the run's partition and returns a reference."""
