"""ONNX Runtime on CPUs, and its providers."""
