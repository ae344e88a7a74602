"""Faults injected into re-indexing. A package, so that its conftest does not stand in for that of tests/."""
