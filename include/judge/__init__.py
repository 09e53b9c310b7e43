"""The judge stage: a pure verdict on stored evidence."""
