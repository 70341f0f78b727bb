#include "edgetx/ops/window_attention/trt.h"

#include <array>
#include <optional>
#include <string>

#include "edgetx/ops/native/trt/creator.h"
#include "edgetx/ops/window_attention/cuda.h"

namespace edgetx::window_attention {
namespace {

struct Fields {
  int32_t num_heads = 0;
  int32_t head_size = 0;
  std::array<int32_t, 2> window{};
  std::array<int32_t, 2> kv_window{};
  std::array<int32_t, 2> shift{};
  std::string mask;
  float mask_value = 0.0f;
  std::string qk_norm;
  std::string shift_when_single;
  float scale = 0.0f;
  std::string pad;
  std::array<int32_t, 2> pad_to{};

  template <class V>
  void Visit(V& visit) {
    visit("num_heads", num_heads);
    visit("head_size", head_size);
    visit("window", window);
    visit("kv_window", kv_window);
    visit("shift", shift);
    visit("mask", mask);
    visit("mask_value", mask_value);
    visit("qk_norm", qk_norm);
    visit("shift_when_single", shift_when_single);
    visit("scale", scale);
    visit("pad", pad);
    visit("pad_to", pad_to);
  }
};

Pair ToPair(const std::array<int32_t, 2>& pair) { return {pair[0], pair[1]}; }

struct Op {
  static constexpr const char* kName = "WindowAttention";
  static constexpr int32_t kFewestInputs = 1;
  static constexpr int32_t kMostInputs = 4;
  static constexpr int32_t kOutputLike = 0;

  Fields fields;
  Attributes attributes;

  Status Finish() {
    attributes.num_heads = fields.num_heads;
    attributes.head_size = fields.head_size;
    attributes.window = ToPair(fields.window);
    attributes.kv_window = ToPair(fields.kv_window);
    attributes.shift = ToPair(fields.shift);
    attributes.pad_to = ToPair(fields.pad_to);
    attributes.scale = fields.scale;
    attributes.mask_value = fields.mask_value;
    const std::string* words[] = {&fields.mask, &fields.qk_norm, &fields.shift_when_single, &fields.pad};
    for (size_t i = 0; i < std::size(words); ++i) {
      if (Status status = SetChoice(kChoices[i], *words[i], &attributes); !status.ok()) return status;
    }
    return Validate(attributes);
  }

  bool TakesType(int32_t, nvinfer1::DataType type, nvinfer1::DataType first) const { return type == first; }

  Status OutputShape(const nvinfer1::DimsExprs* inputs, nvinfer1::IExprBuilder& builder,
                     nvinfer1::DimsExprs* output) const {
    if (inputs[0].nbDims != 4) {
      return Status::Error("WindowAttention: qkv has " + std::to_string(inputs[0].nbDims) +
                           " axes; expected [batch, height, width, channels]");
    }
    const auto* others = builder.constant(2 * attributes.num_heads * attributes.head_size);
    output->d[3] = builder.operation(nvinfer1::DimensionOperation::kSUB, *inputs[0].d[3], *others);
    return {};
  }

  Status CheckShapes(const nvinfer1::PluginTensorDesc* inputs, int32_t count) const {
    Shapes shapes;
    shapes.qkv = trt::ShapeOf(inputs[0].dims);
    std::optional<Shape>* optional[] = {&shapes.bias, &shapes.head_scale, &shapes.pad_value};
    for (int32_t i = 1; i < count; ++i) *optional[i - 1] = trt::ShapeOf(inputs[i].dims);
    return Check(attributes, shapes);
  }

  size_t Workspace(const nvinfer1::DynamicPluginTensorDesc*) const { return 0; }

  cuda::Need Need(DType dtype, const nvinfer1::Dims* inputs) const {
    return KernelNeed(attributes, dtype, inputs[0].d[3]);
  }

  Status Enqueue(const nvinfer1::PluginTensorDesc* descs, int32_t count, const void* const* inputs, void* output,
                 void*, int32_t tile, cuda::Stream stream) const {
    GpuTensors tensors;
    if (Status status = trt::ToDType(descs[0].type, &tensors.dtype); !status.ok()) return status;
    const void** optional[] = {&tensors.qkv, &tensors.bias, &tensors.head_scale, &tensors.pad_value};
    for (int32_t i = 0; i < count; ++i) *optional[i] = inputs[i];
    tensors.output = output;
    return Launch(attributes, trt::ShapeOf(descs[0].dims), tensors, tile, stream);
  }
};

}  // namespace

nvinfer1::IPluginCreatorInterface& TrtCreator() {
  static trt::Creator<Op> creator;
  return creator;
}

}  // namespace edgetx::window_attention
