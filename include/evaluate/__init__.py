"""The evaluate stage: facts about a challenger on the test rows."""
