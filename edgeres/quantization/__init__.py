"""Calibration, scales, saturation-safe weights and Q/DQ insertion."""
