"""Where it runs: executors (in process, Ray), training workers, settings, progress, metrics and traces."""
