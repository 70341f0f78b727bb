#include "edgetx/ops/window_attention/ort.h"

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edgetx/ops/native/ort_op.h"
#include "edgetx/ops/native/scratch.h"
#include "edgetx/ops/window_attention/kernel.h"
#ifdef EDGETX_CUDA
#include "edgetx/ops/native/ort_gpu.h"
#include "edgetx/ops/window_attention/cuda.h"
#endif

namespace edgetx::window_attention {
namespace {

ScratchPool& Pool() {
  static ScratchPool pool;
  return pool;
}

Status ReadPair(const OrtKernelInfo* info, const char* name, Pair* pair) {
  std::vector<int64_t> given;
  if (Status status = ort::Read(info, name, &given); !status.ok()) return status;
  if (given.size() != 2) {
    return Status::Error("WindowAttention: " + std::string(name) + " has " + std::to_string(given.size()) +
                         " values; expected two sizes (height, width)");
  }
  *pair = {given[0], given[1]};
  return {};
}

Status ReadAttributes(const OrtKernelInfo* info, Attributes* a) {
  for (const auto& [name, value] : {std::pair{"num_heads", &a->num_heads}, {"head_size", &a->head_size}}) {
    if (Status status = ort::Read(info, name, value); !status.ok()) return status;
  }
  for (const auto& [name, value] : {std::pair{"scale", &a->scale}, {"mask_value", &a->mask_value}}) {
    if (Status status = ort::Read(info, name, value); !status.ok()) return status;
  }
  for (const auto& [name, value] : {std::pair{"window", &a->window},
                                    {"kv_window", &a->kv_window},
                                    {"shift", &a->shift},
                                    {"pad_to", &a->pad_to}}) {
    if (Status status = ReadPair(info, name, value); !status.ok()) return status;
  }
  for (const char* name : kChoices) {
    std::string word;
    if (Status status = ort::Read(info, name, &word); !status.ok()) return status;
    if (Status status = SetChoice(name, word, a); !status.ok()) return status;
  }
  return Validate(*a);
}

class Task : public ort::ParallelBody {
 public:
  Task(const Plan& plan, const Tensors& tensors, int64_t count)
      : plan_(plan), tensors_(tensors), count_(count) {}

  Status Run(size_t index) override {
    const auto i = static_cast<int64_t>(index);
    const ScratchPool::Lease scratch(Pool(), plan_.scratch_bytes());
    plan_.Run(tensors_, plan_.items() * i / count_, plan_.items() * (i + 1) / count_, scratch.data());
    return {};
  }

 private:
  const Plan& plan_;
  const Tensors& tensors_;
  const int64_t count_;
};

struct Definition {
  static constexpr const char* kName = "WindowAttention";
  static constexpr std::array<ort::Slot, 4> kInputs{
      {{"qkv"}, {"bias", true}, {"head_scale", true}, {"pad_value", true}}};
  static constexpr size_t kOutputs = 1;

  Attributes attributes;

  Status Read(const OrtKernelInfo* info) { return ReadAttributes(info, &attributes); }

  using Inputs = std::array<std::optional<ort::Tensor>, kInputs.size()>;

  Status CheckInputs(const Inputs& inputs, Shapes* shapes) const {
    const auto& [qkv, bias, head_scale, pad_value] = inputs;
    shapes->qkv = qkv->shape;
    if (bias) shapes->bias = bias->shape;
    if (head_scale) shapes->head_scale = head_scale->shape;
    if (pad_value) shapes->pad_value = pad_value->shape;
    return Check(attributes, *shapes);
  }

  Status Compute(DType dtype, CpuLevel level, const Inputs& inputs, OrtKernelContext* context) const {
    const auto& [qkv, bias, head_scale, pad_value] = inputs;
    Shapes shapes;
    if (Status status = CheckInputs(inputs, &shapes); !status.ok()) return status;

    const ort::Float32Input wide[] = {{dtype, bias}, {dtype, head_scale}, {dtype, pad_value}};
    Tensors tensors;
    tensors.dtype = dtype;
    tensors.qkv = qkv->data;
    tensors.bias = wide[0].data();
    tensors.head_scale = wide[1].data();
    tensors.pad_value = wide[2].data();
    const Shape output = OutputShape(attributes, shapes.qkv);
    if (Status status = ort::Output(context, 0, output, &tensors.output); !status.ok()) return status;

    const Plan plan(attributes, shapes.qkv, level);
    const int64_t count = plan.tasks();
    if (count == 0) return {};
    Task task(plan, tensors, count);
    return ort::ParallelFor(context, static_cast<size_t>(count), &task);
  }

#ifdef EDGETX_CUDA
  Status Enqueue(DType dtype, const Inputs& inputs, OrtKernelContext* context, cuda::Stream stream) const {
    Shapes shapes;
    if (Status status = CheckInputs(inputs, &shapes); !status.ok()) return status;
    const auto data = [&](size_t i) { return inputs[i] ? inputs[i]->data : nullptr; };
    GpuTensors tensors{dtype, data(0), data(1), data(2), data(3), nullptr};
    const Shape output = OutputShape(attributes, shapes.qkv);
    if (Status status = ort::Output(context, 0, output, &tensors.output); !status.ok()) return status;
    return Launch(attributes, shapes.qkv, tensors, 0, stream);
  }
#endif
};

}  // namespace

std::array<const OrtCustomOp*, 3> CustomOps() { return ort::CustomOpsOf<Definition>(); }
#ifdef EDGETX_CUDA
std::array<const OrtCustomOp*, 3> GpuOps() { return ort::GpuOpsOf<Definition>(); }
#endif

}  // namespace edgetx::window_attention
