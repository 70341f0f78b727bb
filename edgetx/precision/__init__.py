"""Half precision: a package that computes in float16, made from one in float32 and its golden inputs.

    package = edgetx.convert("swin_tiny.edgetx", precision="float16")

The graph is strongly typed: weights and activations are float16, casts stand where the precision changes and
nowhere else, inputs and outputs stay float32. What the golden inputs show to overflow or to lose too much
stays float32, with the reason in the manifest. Needs onnx_ir and ONNX Runtime, no torch.
"""

from edgetx.precision._convert import PRECISIONS, convert

__all__ = ["PRECISIONS", "convert"]
