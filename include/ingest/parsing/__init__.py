"""Parsing: from the bytes of a part to rows of text, and from text to typed values."""
