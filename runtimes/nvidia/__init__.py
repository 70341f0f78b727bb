"""What TensorRT and TensorRT-RTX share: building, running and looking at engines; imports neither."""
