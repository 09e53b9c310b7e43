"""Bytes of a source to typed columns, within declared limits."""
