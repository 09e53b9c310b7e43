"""The lake: its tables and objects, their schemas and digests, and tables that don't fit into memory."""
