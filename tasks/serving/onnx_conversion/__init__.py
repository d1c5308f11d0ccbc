"""TensorFlow's graphs written as ONNX."""
