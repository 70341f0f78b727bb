// An operator as a TensorRT plugin (IPluginV3), one source for TensorRT 10.3 to 11 and for TensorRT-RTX.
//
// `Op` is copyable and has
//   kName, kFewestInputs, kMostInputs
//   kOutputLike                                   the input whose dtype and shape the output has, but for OutputShape
//   Fields fields                                 see fields.h
//   Status Finish()                               after the fields were read
//   bool TakesType(int32_t input, DataType, DataType of_first) const
//   Status OutputShape(const DimsExprs* inputs, IExprBuilder&, DimsExprs* output) const
//   Status CheckShapes(const PluginTensorDesc* inputs, int32_t count) const
//   size_t Workspace(const DynamicPluginTensorDesc* inputs) const
//   cuda::Need Need(DType, const Dims* inputs) const
//   Status Enqueue(const PluginTensorDesc*, int32_t count, const void* const* inputs, void* output, void* workspace,
//                  int32_t tile, cuda::Stream) const
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edgetx/ops/native/cuda/launch.h"
#include "edgetx/ops/native/trt/fields.h"
#include "edgetx/ops/native/trt/log.h"

namespace edgetx::trt {

constexpr char kNamespace[] = "edgetx";
constexpr char kVersion[] = "1";

inline std::vector<int64_t> ShapeOf(const nvinfer1::Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

inline Status ToDType(nvinfer1::DataType type, DType* dtype) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      *dtype = DType::kFloat32;
      return {};
    case nvinfer1::DataType::kHALF:
      *dtype = DType::kFloat16;
      return {};
    case nvinfer1::DataType::kBF16:
      *dtype = DType::kBFloat16;
      return {};
    default:
      return Status::Error("the kernels take float32, float16 and bfloat16, not TensorRT's type " +
                           std::to_string(static_cast<int>(type)));
  }
}

template <class Op>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
  using DataType = nvinfer1::DataType;
  using Dynamic = nvinfer1::DynamicPluginTensorDesc;
  using Desc = nvinfer1::PluginTensorDesc;

 public:
  Plugin(Op op, int32_t inputs) : op_(std::move(op)), inputs_(inputs) {}

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  nvinfer1::IPluginV3* clone() noexcept override {
    Plugin* copy = nullptr;
    Guard([&]() -> Status {
      auto made = std::make_unique<Plugin>(op_, inputs_);
      made->tile_ = tile_;
      made->tactics_ = tactics_;
      copy = made.release();
      return {};
    });
    return copy;
  }

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // IPluginV3OneBuild
  int32_t configurePlugin(const Dynamic* inputs, int32_t count, const Dynamic*, int32_t) noexcept override {
    return Guard([&]() -> Status {
      if (Status status = CheckCount(count); !status.ok()) return status;
      inputs_ = count;
      DType dtype = DType::kFloat32;
      if (Status status = ToDType(inputs[0].desc.type, &dtype); !status.ok()) return status;
      std::vector<nvinfer1::Dims> dims;
      for (int32_t i = 0; i < count; ++i) dims.push_back(inputs[i].max);
      tactics_.clear();
      const cuda::Archive* archive = nullptr;
      // Without kernels an engine can be built all the same where nothing is run, as TensorRT-RTX does.
      if (!cuda::Archive::Get(&archive).ok()) return {};
      for (const cuda::Tile& tile : archive->Tiles(op_.Need(dtype, dims.data()))) tactics_.push_back(tile.number());
      return {};
    });
  }
  int32_t getOutputDataTypes(DataType* outputs, int32_t, const DataType* inputs, int32_t count) const noexcept override {
    return Guard([&]() -> Status {
      if (Status status = CheckCount(count); !status.ok()) return status;
      outputs[0] = inputs[Op::kOutputLike];
      return {};
    });
  }
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t count, const nvinfer1::DimsExprs*, int32_t,
                          nvinfer1::DimsExprs* outputs, int32_t, nvinfer1::IExprBuilder& builder) noexcept override {
    return Guard([&]() -> Status {
      if (Status status = CheckCount(count); !status.ok()) return status;
      outputs[0] = inputs[Op::kOutputLike];
      return op_.OutputShape(inputs, builder, outputs);
    });
  }
  bool supportsFormatCombination(int32_t position, const Dynamic* tensors, int32_t inputs, int32_t) noexcept override {
    const Desc& desc = tensors[position].desc;
    const DataType first = tensors[0].desc.type;
    DType dtype = DType::kFloat32;
    if (desc.format != nvinfer1::TensorFormat::kLINEAR || !ToDType(first, &dtype).ok()) return false;
    return position < inputs ? op_.TakesType(position, desc.type, first) : desc.type == first;
  }
  int32_t getNbOutputs() const noexcept override { return 1; }
  size_t getWorkspaceSize(const Dynamic* inputs, int32_t, const Dynamic*, int32_t) const noexcept override {
    return op_.Workspace(inputs);
  }
  int32_t getNbTactics() noexcept override { return static_cast<int32_t>(tactics_.size()); }
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override {
    for (int32_t i = 0; i < count; ++i) tactics[i] = tactics_[static_cast<size_t>(i)];
    return 0;
  }

  // IPluginV3OneRuntime
  int32_t setTactic(int32_t tactic) noexcept override {
    tile_ = tactic;
    return 0;
  }
  int32_t onShapeChange(const Desc* inputs, int32_t count, const Desc*, int32_t) noexcept override {
    return Guard([&]() -> Status {
      if (Status status = CheckCount(count); !status.ok()) return status;
      inputs_ = count;
      return op_.CheckShapes(inputs, count);
    });
  }
  int32_t enqueue(const Desc* inputs, const Desc*, const void* const* data, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    return Guard([&] {
      return op_.Enqueue(inputs, inputs_, data, outputs[0], workspace, tile_, stream);
    });
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    const int32_t status = Guard([&]() -> Status {
      list_ = {};
      op_.fields.Visit(list_);
      list_(kFormatName, kFormat);
      list_(kInputsName, inputs_);
      collection_ = list_.collection();
      return {};
    });
    return status == 0 ? &collection_ : nullptr;
  }

 private:
  Status CheckCount(int32_t count) const {
    if (count >= Op::kFewestInputs && count <= Op::kMostInputs) return {};
    return Status::Error(std::string(Op::kName) + " has " + std::to_string(count) + " inputs; expected " +
                         std::to_string(Op::kFewestInputs) + " to " + std::to_string(Op::kMostInputs));
  }

  Op op_;
  int32_t tile_ = 0;  // 0: the rule chooses
  int32_t inputs_;    // an enqueue is not told, so the engine keeps it
  std::vector<int32_t> tactics_;
  FieldList list_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace edgetx::trt
