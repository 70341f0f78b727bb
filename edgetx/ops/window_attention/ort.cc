#include "edgetx/ops/window_attention/ort.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edgetx/ops/native/ort.h"
#include "edgetx/ops/native/scratch.h"
#include "edgetx/ops/window_attention/kernel.h"

namespace edgetx::window_attention {
namespace {

// Enough for an even load, few enough to cost nothing.
constexpr int64_t kMaxTasks = 64;
constexpr size_t kInputs = 4;

struct Kernel {
  DType dtype;
  Attributes attributes;
  CpuLevel level;
};

ScratchPool& Pool() {
  static ScratchPool pool;
  return pool;
}

template <class Choice>
struct Named {
  const char* name;
  Choice choice;
};

template <class Choice, size_t N>
Status ReadChoice(const OrtKernelInfo* info, const char* name, const Named<Choice> (&choices)[N], Choice* value) {
  std::string given;
  if (Status status = ort::Read(info, name, &given); !status.ok()) return status;
  std::string accepted;
  for (const auto& [text, choice] : choices) {
    if (given == text) {
      *value = choice;
      return {};
    }
    accepted += (accepted.empty() ? "" : ", ") + std::string(text);
  }
  return Status::Error("WindowAttention: " + std::string(name) + "='" + given + "'; accepted: " + accepted);
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
  Status status = ReadChoice(info, "mask", {{"none", Mask::kNone}, {"region", Mask::kRegion}}, &a->mask);
  if (!status.ok()) return status;
  status = ReadChoice(info, "qk_norm", {{"none", QkNorm::kNone}, {"l2", QkNorm::kL2}}, &a->qk_norm);
  if (!status.ok()) return status;
  status = ReadChoice(info, "shift_when_single",
                      {{"keep", ShiftWhenSingle::kKeep},
                       {"drop_axis", ShiftWhenSingle::kDropAxis},
                       {"drop_both", ShiftWhenSingle::kDropBoth}},
                      &a->shift_when_single);
  if (!status.ok()) return status;
  status = ReadChoice(
      info, "pad", {{"none", Pad::kNone}, {"before_roll", Pad::kBeforeRoll}, {"after_roll", Pad::kAfterRoll}},
      &a->pad);
  if (!status.ok()) return status;
  return Validate(*a);
}

// An optional input as float32; `storage` holds it where it has another type.
const float* AsFloat32(DType dtype, const std::optional<ort::Tensor>& tensor, std::vector<float>* storage) {
  if (!tensor) return nullptr;
  if (dtype == DType::kFloat32) return static_cast<const float*>(tensor->data);
  size_t count = 1;
  for (const int64_t size : tensor->shape) count *= static_cast<size_t>(size);
  storage->resize(count);
  ToFloat32(dtype, tensor->data, count, storage->data());
  return storage->data();
}

class Task : public ort::ParallelBody {
 public:
  Task(const Plan& plan, const Tensors& tensors, size_t count)
      : plan_(plan), tensors_(tensors), count_(static_cast<int64_t>(count)) {}

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

Status Compute(const Kernel& kernel, OrtKernelContext* context) {
  std::optional<ort::Tensor> inputs[kInputs];
  for (size_t i = 0; i < kInputs; ++i) {
    if (Status status = ort::Input(context, i, &inputs[i]); !status.ok()) return status;
  }
  const auto& [qkv, bias, head_scale, pad_value] = inputs;
  if (!qkv) return Status::Error("WindowAttention: input qkv is missing");
  Shapes shapes;
  shapes.qkv = qkv->shape;
  if (bias) shapes.bias = bias->shape;
  if (head_scale) shapes.head_scale = head_scale->shape;
  if (pad_value) shapes.pad_value = pad_value->shape;
  if (Status status = Check(kernel.attributes, shapes); !status.ok()) return status;

  std::vector<float> storage[3];
  Tensors tensors;
  tensors.dtype = kernel.dtype;
  tensors.qkv = qkv->data;
  tensors.bias = AsFloat32(kernel.dtype, bias, &storage[0]);
  tensors.head_scale = AsFloat32(kernel.dtype, head_scale, &storage[1]);
  tensors.pad_value = AsFloat32(kernel.dtype, pad_value, &storage[2]);
  const Shape output = OutputShape(kernel.attributes, shapes.qkv);
  if (Status status = ort::Output(context, 0, output, &tensors.output); !status.ok()) return status;

  const Plan plan(kernel.attributes, shapes.qkv, kernel.level);
  if (plan.items() == 0) return {};
  const auto count = static_cast<size_t>(std::min(plan.items(), kMaxTasks));
  Task task(plan, tensors, count);
  return ort::ParallelFor(context, count, &task);
}

// ---- ONNX Runtime's table of functions

template <DType kDType>
struct Op : OrtCustomOp {
  Op() : OrtCustomOp{} {
    version = ORT_API_VERSION;
    GetName = [](const OrtCustomOp*) { return "WindowAttention"; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
    GetInputType = [](const OrtCustomOp*, size_t) { return ort::ToOnnx(kDType); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputType = [](const OrtCustomOp*, size_t) { return ort::ToOnnx(kDType); };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
      return ort::Guard([&]() -> Status {
        auto created = std::make_unique<Kernel>();
        created->dtype = kDType;
        if (Status status = DetectCpuLevel(&created->level); !status.ok()) return status;
        if (Status status = ReadAttributes(info, &created->attributes); !status.ok()) return status;
        *kernel = created.release();
        return {};
      });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      return ort::Guard([&] { return Compute(*static_cast<const Kernel*>(kernel), context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace

std::array<const OrtCustomOp*, 3> CustomOps() {
  static const Op<DType::kFloat32> float32;
  static const Op<DType::kFloat16> float16;
  static const Op<DType::kBFloat16> bfloat16;
  return {&float32, &float16, &bfloat16};
}

}  // namespace edgetx::window_attention
