#include "edgetx/ops/bias_gelu/ort.h"

#include "edgetx/ops/bias_gelu/kernel.h"
#include "edgetx/ops/native/ort_op.h"

namespace edgetx::bias_gelu {
namespace {

struct BiasGelu {
  static constexpr const char* kName = "BiasGelu";
  static constexpr std::array<ort::Slot, 2> kInputs{{{"x"}, {"bias"}}};
  static constexpr size_t kOutputs = 1;

  Status Read(const OrtKernelInfo*) { return {}; }

  Status Compute(DType dtype, CpuLevel level, const std::array<std::optional<ort::Tensor>, kInputs.size()>& inputs,
                 OrtKernelContext* context) const {
    const auto& [x, bias] = inputs;
    if (Status status = CheckRows(kName, "x", x->shape); !status.ok()) return status;
    if (Status status = CheckVector(kName, "bias", bias->shape, "x", x->shape); !status.ok()) return status;
    const ort::Float32Input wide_bias(dtype, bias);
    Call call;
    call.dtype = dtype;
    call.channels = x->shape.back();
    call.x = x->data;
    call.bias = wide_bias.data();
    if (Status status = ort::Output(context, 0, x->shape, &call.y); !status.ok()) return status;
    const RunFunction run = SelectRun(level);
    const int64_t bytes_per_row = 2 * call.channels * static_cast<int64_t>(SizeOf(dtype));
    return ort::ParallelForRows(context, CountRows(x->shape), bytes_per_row,
                                [&](int64_t begin, int64_t end) { run(call, begin, end); });
  }
};

}  // namespace

std::array<const OrtCustomOp*, 3> CustomOps() { return ort::CustomOpsOf<BiasGelu>(); }

}  // namespace edgetx::bias_gelu
