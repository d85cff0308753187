"""What a model is used for: one small file for each task."""
