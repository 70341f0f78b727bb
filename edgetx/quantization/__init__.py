"""INT8 and FP8: a package whose matrix products take 8-bit numbers, within a budget of accuracy.

    package = edgetx.quantize("swin_tiny.edgetx", calib="photos", budget="top1>=-0.5")

Quantize and Dequantize nodes stand before matrix products with constant weights, never inside or in front of
an edgetx operator: those take and give float32. Which products are quantised is measured, layer by layer, on
one half of the calibration data, and the result is judged on the other half. Needs onnx_ir and ONNX Runtime,
no torch.
"""

from edgetx.quantization._budget import METRICS, Budget
from edgetx.quantization._quantize import CALIBRATIONS, PRECISIONS, quantize

__all__ = ["CALIBRATIONS", "METRICS", "PRECISIONS", "Budget", "quantize"]
