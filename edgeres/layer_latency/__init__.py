"""Latency of single layers on a device, and what it says of a network of other widths."""
