#include "edgetx/ops/group_attention/trt.h"

#include <string>

#include "edgetx/ops/group_attention/cuda.h"
#include "edgetx/ops/native/trt/creator.h"

namespace edgetx::group_attention {
namespace {

enum Input : int32_t { kQ, kK, kV, kGroups, kInverse, kInputs };

struct Fields {
  int32_t num_heads = 0;
  float scale = 0.0f;
  std::string activation;

  template <class V>
  void Visit(V& visit) {
    visit("num_heads", num_heads);
    visit("scale", scale);
    visit("activation", activation);
  }
};

Shapes ShapesOf(const nvinfer1::PluginTensorDesc* inputs) {
  return {trt::ShapeOf(inputs[kQ].dims), trt::ShapeOf(inputs[kK].dims), trt::ShapeOf(inputs[kV].dims),
          trt::ShapeOf(inputs[kGroups].dims), trt::ShapeOf(inputs[kInverse].dims)};
}

struct Op {
  static constexpr const char* kName = "GroupAttention";
  static constexpr int32_t kFewestInputs = kInputs;
  static constexpr int32_t kMostInputs = kInputs;
  static constexpr int32_t kOutputLike = kV;

  Fields fields;
  Attributes attributes;

  Status Finish() {
    attributes.num_heads = fields.num_heads;
    attributes.scale = fields.scale;
    if (Status status = SetActivation(fields.activation, &attributes); !status.ok()) return status;
    return Validate(attributes);
  }

  bool TakesType(int32_t input, nvinfer1::DataType type, nvinfer1::DataType first) const {
    return type == (input < kGroups ? first : nvinfer1::DataType::kINT32);
  }

  Status OutputShape(const nvinfer1::DimsExprs* inputs, nvinfer1::IExprBuilder&, nvinfer1::DimsExprs*) const {
    for (const auto& [input, rank, form] : {std::make_tuple(kQ, 2, "q is [T, h·d]"), {kV, 2, "v is [T, h·dv]"},
                                            {kGroups, 2, "groups is [G, S]"}}) {
      if (inputs[input].nbDims != rank) {
        return Status::Error("GroupAttention: an input has " + std::to_string(inputs[input].nbDims) + " axes; " + form);
      }
    }
    return {};
  }

  Status CheckShapes(const nvinfer1::PluginTensorDesc* inputs, int32_t) const {
    return Check(attributes, ShapesOf(inputs));
  }

  size_t Workspace(const nvinfer1::DynamicPluginTensorDesc* inputs) const {
    const nvinfer1::Dims& groups = inputs[kGroups].max;
    return WorkspaceBytes(inputs[kQ].max.d[0], groups.d[0], groups.d[1]);
  }

  cuda::Need Need(DType dtype, const nvinfer1::Dims* inputs) const {
    return KernelNeed(attributes, dtype, inputs[kQ].d[1], inputs[kV].d[1]);
  }

  Status Enqueue(const nvinfer1::PluginTensorDesc* descs, int32_t, const void* const* inputs, void* output,
                 void* workspace, int32_t tile, cuda::Stream stream) const {
    GpuTensors tensors;
    if (Status status = trt::ToDType(descs[kQ].type, &tensors.dtype); !status.ok()) return status;
    tensors.q = inputs[kQ];
    tensors.k = inputs[kK];
    tensors.v = inputs[kV];
    tensors.groups = inputs[kGroups];
    tensors.inverse = inputs[kInverse];
    tensors.output = output;
    tensors.workspace = workspace;
    return Launch(attributes, ShapesOf(descs), tensors, tile, stream);
  }
};

}  // namespace

nvinfer1::IPluginCreatorInterface& TrtCreator() {
  static trt::Creator<Op> creator;
  return creator;
}

}  // namespace edgetx::group_attention
