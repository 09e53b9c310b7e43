"""What the nights' data and the matured labels say of the serving model, and what is to be done."""
