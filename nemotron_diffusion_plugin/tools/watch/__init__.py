"""A page that shows one answer appear in the three modes side by side."""
