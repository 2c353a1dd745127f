"""Structured channel pruning of residual networks."""
