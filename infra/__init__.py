"""Where it runs: executors and settings."""
