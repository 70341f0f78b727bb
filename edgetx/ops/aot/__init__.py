"""Compiling the Triton kernels ahead of time, for every GPU, on a machine without one.

`python -m edgetx.ops.aot` writes one file, the archive from which the TensorRT plugins and ONNX Runtime's
CUDA operators launch. It needs Triton, which brings NVIDIA's assembler; running the kernels needs neither.
"""
