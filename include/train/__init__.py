"""The train stage: recipes are fitted on what was known."""
