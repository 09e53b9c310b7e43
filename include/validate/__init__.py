"""Finds mistakes in a declaration, its SQL and the stored data before they cost a day."""
