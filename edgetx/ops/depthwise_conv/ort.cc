#include "edgetx/ops/depthwise_conv/ort.h"

#include "edgetx/ops/depthwise_conv/kernel.h"
#include "edgetx/ops/native/ort_op.h"

namespace edgetx::depthwise_conv {
namespace {

Status Fail(const std::string& text) { return Status::Error("DepthwiseConv: " + text); }

struct DepthwiseConv {
  static constexpr const char* kName = "DepthwiseConv";
  static constexpr std::array<ort::Slot, 4> kInputs{{{"x"}, {"weight"}, {"bias"}, {"other", true}}};
  static constexpr size_t kOutputs = 1;

  int64_t offset = 0;
  int64_t other_offset = 0;
  Activation activation = Activation::kNone;
  Combine combine = Combine::kAdd;

  Status Read(const OrtKernelInfo* info) {
    std::string text;
    if (Status status = ort::Read(info, "offset", &offset); !status.ok()) return status;
    if (Status status = ort::Read(info, "other_offset", &other_offset); !status.ok()) return status;
    if (offset < 0 || other_offset < 0) return Fail("a negative offset; accepted: 0 or more");
    if (Status status = ort::Read(info, "activation", &text); !status.ok()) return status;
    if (text != "none" && text != "gelu") return Fail("activation=" + text + "; accepted: none, gelu");
    activation = text == "gelu" ? Activation::kGelu : Activation::kNone;
    if (Status status = ort::Read(info, "combine", &text); !status.ok()) return status;
    if (text != "add" && text != "multiply") return Fail("combine=" + text + "; accepted: add, multiply");
    combine = text == "add" ? Combine::kAdd : Combine::kMultiply;
    return {};
  }

  Status Check(const RowsShape& x, const RowsShape& weight, const RowsShape& bias,
               const std::optional<ort::Tensor>& other) const {
    if (x.size() != 4) return Fail("x has shape " + Text(x) + "; expected [B, H, W, channels]");
    if (weight.size() != 3 || weight[0] % 2 == 0 || weight[1] % 2 == 0) {
      return Fail("weight has shape " + Text(weight) + "; expected [kh, kw, C] with odd kh and kw");
    }
    if (bias != RowsShape{weight[2]}) {
      return Fail("bias has shape " + Text(bias) + "; expected the channels of weight, " + Text(weight));
    }
    if (offset + weight[2] > x[3]) {
      return Fail("x has shape " + Text(x) + "; expected at least " + std::to_string(offset + weight[2]) + " channels");
    }
    if (!other) return {};
    const RowsShape& joined = other->shape;
    if (joined.size() != 4 || joined[0] != x[0] || joined[1] != x[1] || joined[2] != x[2] ||
        other_offset + weight[2] > joined[3]) {
      return Fail("other has shape " + Text(joined) + "; expected batch, height and width of x, " + Text(x) +
                  ", and at least " + std::to_string(other_offset + weight[2]) + " channels");
    }
    return {};
  }

  Status Compute(DType dtype, CpuLevel level, const std::array<std::optional<ort::Tensor>, kInputs.size()>& inputs,
                 OrtKernelContext* context) const {
    const auto& [x, weight, bias, other] = inputs;
    if (Status status = Check(x->shape, weight->shape, bias->shape, other); !status.ok()) return status;
    const ort::Float32Input wide_weight(dtype, weight);
    const ort::Float32Input wide_bias(dtype, bias);
    const auto size = static_cast<int64_t>(SizeOf(dtype));
    Call call;
    call.dtype = dtype;
    call.activation = activation;
    call.combine = combine;
    call.height = x->shape[1];
    call.width = x->shape[2];
    call.channels = weight->shape[2];
    call.x_stride = x->shape[3];
    call.kernel_height = weight->shape[0];
    call.kernel_width = weight->shape[1];
    call.x = static_cast<const std::byte*>(x->data) + offset * size;
    call.weight = wide_weight.data();
    call.bias = wide_bias.data();
    if (other) {
      call.other_stride = other->shape[3];
      call.other = static_cast<const std::byte*>(other->data) + other_offset * size;
    }
    const RowsShape shape{x->shape[0], call.height, call.width, call.channels};
    if (Status status = ort::Output(context, 0, shape, &call.out); !status.ok()) return status;
    const RunFunction run = SelectRun(level);
    const int64_t bytes_per_row = (other ? 3 : 2) * call.width * call.channels * size;
    return ort::ParallelForRows(context, shape[0] * shape[1], bytes_per_row,
                                [&](int64_t begin, int64_t end) { run(call, begin, end); });
  }
};

}  // namespace

std::array<const OrtCustomOp*, 3> CustomOps() { return ort::CustomOpsOf<DepthwiseConv>(); }

}  // namespace edgetx::depthwise_conv
