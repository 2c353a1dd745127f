"""Residual networks, their channel plans and their checkpoints."""
