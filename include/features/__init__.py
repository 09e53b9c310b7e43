"""Point-in-time features and labels from one SQL statement."""
