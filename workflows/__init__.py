"""What runs: specifications, checks before a run, records that stages exchange, and tasks of one file.

These are datasets, embedding, search, export, plan and doctor.
"""
