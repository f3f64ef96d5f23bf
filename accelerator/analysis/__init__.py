"""What `accelerator analyze-data` and `accelerator analyze-model` find out, and the page they write."""
