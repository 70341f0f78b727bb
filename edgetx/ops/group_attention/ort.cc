#include "edgetx/ops/group_attention/ort.h"

#include <optional>
#include <string>

#include "edgetx/ops/group_attention/kernel.h"
#include "edgetx/ops/native/ort_op.h"
#include "edgetx/ops/native/scratch.h"
#ifdef EDGETX_CUDA
#include "edgetx/ops/group_attention/cuda.h"
#include "edgetx/ops/native/ort_gpu.h"
#endif

namespace edgetx::group_attention {
namespace {

ScratchPool& Pool() {
  static ScratchPool pool;
  return pool;
}

class Task : public ort::ParallelBody {
 public:
  Task(const Plan& plan, int64_t count) : plan_(plan), count_(count) {}

  Status Run(size_t index) override {
    const auto i = static_cast<int64_t>(index);
    const ScratchPool::Lease scratch(Pool(), plan_.scratch_bytes());
    plan_.Run(plan_.items() * i / count_, plan_.items() * (i + 1) / count_, scratch.data());
    return {};
  }

 private:
  const Plan& plan_;
  const int64_t count_;
};

struct Definition {
  static constexpr const char* kName = "GroupAttention";
  static constexpr std::array<ort::Slot, 5> kInputs{{{"q"},
                                                     {"k"},
                                                     {"v"},
                                                     {"groups", false, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
                                                     {"inverse", false, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32}}};
  static constexpr size_t kOutputs = 1;

  Attributes attributes;

  Status Read(const OrtKernelInfo* info) {
    if (Status status = ort::Read(info, "num_heads", &attributes.num_heads); !status.ok()) return status;
    if (Status status = ort::Read(info, "scale", &attributes.scale); !status.ok()) return status;
    std::string activation;
    if (Status status = ort::Read(info, "activation", &activation); !status.ok()) return status;
    if (Status status = SetActivation(activation, &attributes); !status.ok()) return status;
    return Validate(attributes);
  }

  using Inputs = std::array<std::optional<ort::Tensor>, kInputs.size()>;

  Status Compute(DType dtype, CpuLevel level, const Inputs& inputs, OrtKernelContext* context) const {
    const auto& [q, k, v, groups, inverse] = inputs;
    const Shapes shapes{q->shape, k->shape, v->shape, groups->shape, inverse->shape};
    if (Status status = Check(attributes, shapes); !status.ok()) return status;
    Tensors tensors;
    tensors.dtype = dtype;
    tensors.q = q->data;
    tensors.k = k->data;
    tensors.v = v->data;
    tensors.groups = static_cast<const int32_t*>(groups->data);
    tensors.inverse = static_cast<const int32_t*>(inverse->data);
    if (Status status = CheckIndices(shapes, tensors); !status.ok()) return status;
    if (Status status = ort::Output(context, 0, shapes.v, &tensors.output); !status.ok()) return status;

    const Plan plan(attributes, shapes, tensors, level);
    plan.Clear();
    const int64_t count = plan.tasks();
    if (count == 0) return {};
    Task task(plan, count);
    return ort::ParallelFor(context, static_cast<size_t>(count), &task);
  }

#ifdef EDGETX_CUDA
  Status Enqueue(DType dtype, const Inputs& inputs, OrtKernelContext* context, cuda::Stream stream) const {
    const auto& [q, k, v, groups, inverse] = inputs;
    const Shapes shapes{q->shape, k->shape, v->shape, groups->shape, inverse->shape};
    if (Status status = Check(attributes, shapes); !status.ok()) return status;
    GpuTensors tensors{dtype, q->data, k->data, v->data, groups->data, inverse->data, nullptr, nullptr};
    if (Status status = ort::Output(context, 0, shapes.v, &tensors.output); !status.ok()) return status;
    const size_t bytes = WorkspaceBytes(shapes.q[0], shapes.groups[0], shapes.groups[1]);
    if (bytes == 0) return {};
    if (Status status = ort::Scratch(context, 0, bytes, &tensors.workspace); !status.ok()) return status;
    return Launch(attributes, shapes, tensors, 0, stream);
  }
#endif
};

}  // namespace

std::array<const OrtCustomOp*, 3> CustomOps() { return ort::CustomOpsOf<Definition>(); }
#ifdef EDGETX_CUDA
std::array<const OrtCustomOp*, 3> GpuOps() { return ort::GpuOpsOf<Definition>(); }
#endif

}  // namespace edgetx::group_attention
