"""Where data lies: tables and objects of a use case, their schemas, and spilling to disk."""
