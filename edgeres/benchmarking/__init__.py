"""Latency of built engines."""
