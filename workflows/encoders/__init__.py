"""Frozen encoders of texts and pictures, behind one protocol. Their packages are optional, and imported when used."""
