"""What is stored, on local disks and in stores such as S3: files, feature datasets, code tables and models."""
