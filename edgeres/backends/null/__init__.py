"""A backend that computes nothing: the overhead of measuring."""
