"""The stages that can be called alone: train, prune, export, calibrate, quantize, build."""
