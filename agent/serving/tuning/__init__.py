"""What a worker writes down of its batches, and whether their settings still fit what arrives."""
