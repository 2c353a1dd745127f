"""Training from scratch and fine-tuning of residual networks."""
