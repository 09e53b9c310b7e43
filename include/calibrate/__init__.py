"""How often the gate promotes noise, and which gains it sees: measured on the use case's own nights."""
