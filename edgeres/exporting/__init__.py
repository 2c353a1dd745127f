"""From a torch module or a foreign ONNX file to one FP32 ONNX normal form."""
