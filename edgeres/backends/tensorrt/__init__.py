"""TensorRT and TensorRT for RTX on NVIDIA GPUs."""
