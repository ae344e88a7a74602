"""What runs: stages, flows, command line, report."""
