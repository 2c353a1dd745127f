"""Accuracy of built engines, its statistics, and INT8 coverage."""
