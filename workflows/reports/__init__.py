"""Reports of runs and of benchmarks, as HTML and Markdown."""
