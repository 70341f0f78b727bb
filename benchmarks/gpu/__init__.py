"""Measurements on an NVIDIA GPU, with PyTorch and Triton and no other engine: `python -m benchmarks.gpu`."""
