"""What a verdict rests on, for the eyes of a manager and of an engineer: one page, and two cards."""
