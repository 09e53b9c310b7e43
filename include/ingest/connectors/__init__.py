"""How a source is reached: objects, HTTP, SQL."""
