"""What is stored, on local disks and S3: files, feature datasets, code tables and models."""
