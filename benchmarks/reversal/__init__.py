"""A relation between features and label that reverses overnight."""
