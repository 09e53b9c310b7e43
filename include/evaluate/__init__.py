"""The evaluate stage: facts about a challenger on unseen rows."""
