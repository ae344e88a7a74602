"""Executors, training workers, progress and settings."""
