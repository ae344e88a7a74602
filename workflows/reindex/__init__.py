"""The pipeline that publishes a version: fitting, planning, staging, gate, publishing."""
