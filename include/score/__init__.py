"""Every row to score gets a prediction on time, and says who gave it and why."""
