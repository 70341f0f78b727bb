#include "edgetx/ops/add_norm/ort.h"

#include <algorithm>

#include "edgetx/ops/add_norm/kernel.h"
#include "edgetx/ops/native/ort_op.h"
#include "edgetx/ops/native/scratch.h"

namespace edgetx::add_norm {
namespace {

ScratchPool& Pool() {
  static ScratchPool pool;
  return pool;
}

template <Order kOrder>
struct Definition {
  static constexpr const char* kName = kOrder == Order::kAddNorm ? "AddNorm" : "NormAdd";
  static constexpr std::array<ort::Slot, 5> kInputs{{{"x"}, {"branch"}, {"bias"}, {"scale"}, {"shift"}}};
  static constexpr size_t kOutputs = kOrder == Order::kAddNorm ? 2 : 1;

  float epsilon = 0.0f;

  Status Read(const OrtKernelInfo* info) {
    if (Status status = ort::Read(info, "epsilon", &epsilon); !status.ok()) return status;
    if (epsilon >= 0.0f) return {};
    return Status::Error(std::string(kName) + ": epsilon=" + std::to_string(epsilon) + "; accepted: 0 or more");
  }

  Status Compute(DType dtype, CpuLevel level, const std::array<std::optional<ort::Tensor>, kInputs.size()>& inputs,
                 OrtKernelContext* context) const {
    const auto& [x, branch, bias, scale, shift] = inputs;
    if (Status status = CheckRows(kName, "x", x->shape); !status.ok()) return status;
    if (Status status = CheckSame(kName, "branch", branch->shape, "x", x->shape); !status.ok()) return status;
    for (size_t i = 2; i < inputs.size(); ++i) {
      Status status = CheckVector(kName, kInputs[i].name, inputs[i]->shape, "x", x->shape);
      if (!status.ok()) return status;
    }
    const ort::Float32Input vectors[] = {{dtype, bias}, {dtype, scale}, {dtype, shift}};
    Call call;
    call.order = kOrder;
    call.dtype = dtype;
    call.epsilon = epsilon;
    call.channels = x->shape.back();
    call.x = x->data;
    call.branch = branch->data;
    call.bias = vectors[0].data();
    call.scale = vectors[1].data();
    call.shift = vectors[2].data();
    if constexpr (kOrder == Order::kAddNorm) {
      if (Status status = ort::Output(context, 0, x->shape, &call.sum); !status.ok()) return status;
    }
    if (Status status = ort::Output(context, kOutputs - 1, x->shape, &call.out); !status.ok()) return status;
    if (call.channels == 0) return {};
    const RunFunction run = SelectRun(level);
    const int64_t bytes_per_row = (2 + kOutputs) * call.channels * static_cast<int64_t>(SizeOf(dtype));
    return ort::ParallelForRows(context, CountRows(x->shape), bytes_per_row, [&](int64_t begin, int64_t end) {
      const ScratchPool::Lease scratch(Pool(), ScratchBytes(call.channels));
      run(call, begin, end, scratch.data());
    });
  }
};

}  // namespace

std::array<const OrtCustomOp*, 6> CustomOps() {
  std::array<const OrtCustomOp*, 6> all;
  const auto add_norm = ort::CustomOpsOf<Definition<Order::kAddNorm>>();
  const auto norm_add = ort::CustomOpsOf<Definition<Order::kNormAdd>>();
  std::copy(norm_add.begin(), norm_add.end(), std::copy(add_norm.begin(), add_norm.end(), all.begin()));
  return all;
}

}  // namespace edgetx::add_norm
