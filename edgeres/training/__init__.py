"""Training and fine-tuning of residual networks."""
