"""Pages for people: the verdict, the history, model and data cards."""
