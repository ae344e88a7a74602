"""The pipeline that publishes a version: fit, plan, stage, gate, publish."""
