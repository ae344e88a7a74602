"""Codes in the formats of other tools, one file per target."""
