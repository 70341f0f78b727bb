// Drives one of the plugin library's plugins as TensorRT does, with TensorRT's headers and without its libraries:
// created from a node's fields, asked for types, shapes, formats, tactics and workspace, serialised, created again from
// what an engine would keep, told the shapes of a run, and enqueued.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "edgetx/ops/native/status.h"

namespace edgetx::driven {

using Type = nvinfer1::DataType;

struct Input {
  Type type;
  std::vector<int64_t> shape;
};

// Attributes with the memory that they point to. Values are four bytes each, or the letters of a text.
class Fields {
 public:
  void Ints(const std::string& name, const std::vector<int32_t>& values) { Put(name, values, Kind::kINT32); }
  void Floats(const std::string& name, const std::vector<float>& values) { Put(name, values, Kind::kFLOAT32); }
  void Text(const std::string& name, const std::string& text) {
    Put(name, std::vector<char>(text.begin(), text.end()), Kind::kCHAR);
  }
  void Add(const nvinfer1::PluginFieldCollection& given) {
    for (int32_t i = 0; i < given.nbFields; ++i) {
      const nvinfer1::PluginField& field = given.fields[i];
      const size_t bytes = static_cast<size_t>(field.length) * (field.type == Kind::kCHAR ? 1 : 4);
      const auto* data = static_cast<const char*>(field.data);
      fields_.push_back({field.name, field.type, field.length, {data, data + bytes}});
    }
  }
  // Valid until the next call of any kind.
  const nvinfer1::PluginFieldCollection& collection() {
    list_.clear();
    for (const Field& field : fields_) {
      list_.emplace_back(field.name.c_str(), field.data.data(), field.type, field.length);
    }
    collection_.nbFields = static_cast<int32_t>(list_.size());
    collection_.fields = list_.data();
    return collection_;
  }

 private:
  using Kind = nvinfer1::PluginFieldType;
  struct Field {
    std::string name;
    Kind type;
    int32_t length;
    std::vector<char> data;
  };
  template <class T>
  void Put(const std::string& name, const std::vector<T>& values, Kind kind) {
    const auto* data = reinterpret_cast<const char*>(values.data());
    fields_.push_back({name, kind, static_cast<int32_t>(values.size()), {data, data + values.size() * sizeof(T)}});
  }
  std::vector<Field> fields_;
  std::vector<nvinfer1::PluginField> list_;
  nvinfer1::PluginFieldCollection collection_{};
};

// What plugins write to TensorRT's log.
class Log final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity, const char* message) noexcept override { text += std::string(message) + "\n"; }
  nvinfer1::ILogger* findLogger() override { return this; }
  std::string text;
};

// Sizes that are known.
class Size final : public nvinfer1::IDimensionExpr, nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Size(int64_t value) : value_(value) { mImpl = this; }
  bool isConstant() const override { return true; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
};

class Sizes final : public nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder {
 public:
  Sizes() { mImpl = this; }
  const nvinfer1::IDimensionExpr* constant(int64_t value) override {
    made_.push_back(std::make_unique<Size>(value));
    return made_.back().get();
  }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op, const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override {
    const int64_t a = first.getConstantValue();
    const int64_t b = second.getConstantValue();
    switch (op) {
      case nvinfer1::DimensionOperation::kSUM:
        return constant(a + b);
      case nvinfer1::DimensionOperation::kSUB:
        return constant(a - b);
      case nvinfer1::DimensionOperation::kPROD:
        return constant(a * b);
      default:
        return nullptr;  // none of our plugins asks for another
    }
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Size>> made_;
};

class Plugin {
 public:
  // The library's own entry points, as TensorRT's registry uses them.
  Status Open(const std::string& library, const std::string& name) {
    void* opened = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) return Status::Error(dlerror());
    using Creators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
    const auto creators = reinterpret_cast<Creators>(dlsym(opened, "getCreators"));
    const auto set_finder = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(dlsym(opened, "setLoggerFinder"));
    if (creators == nullptr || set_finder == nullptr) return Status::Error(library + " is no library of plugins");
    set_finder(&log_);
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* list = creators(count);
    for (int32_t i = 0; i < count; ++i) {
      if (std::strcmp(list[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0) continue;
      auto* each = static_cast<nvinfer1::IPluginCreatorV3One*>(list[i]);
      if (each->getPluginName() == name && std::string(each->getPluginNamespace()) == "edgetx") creator_ = each;
    }
    return creator_ != nullptr ? Status() : Status::Error(library + " has no plugin " + name);
  }

  // The building phase, for shapes up to those of `most`; leaves the plugin that an engine would load.
  Status Build(Fields fields, const std::vector<Input>& most) {
    const Made built(creator_->createPlugin("node", &fields.collection(), nvinfer1::TensorRTPhase::kBUILD));
    if (built.plugin == nullptr) return Failed("createPlugin");
    auto* build = Capability<nvinfer1::IPluginV3OneBuild>(built, nvinfer1::PluginCapabilityType::kBUILD);
    auto* runtime = Capability<nvinfer1::IPluginV3OneRuntime>(built, nvinfer1::PluginCapabilityType::kRUNTIME);
    if (build == nullptr || runtime == nullptr) return Status::Error("the plugin lacks a capability");
    const auto count = static_cast<int32_t>(most.size());
    std::vector<Type> types;
    for (const Input& input : most) types.push_back(input.type);
    Type type{};
    if (build->getOutputDataTypes(&type, 1, types.data(), count) != 0) return Failed("getOutputDataTypes");
    Input output{type, {}};
    if (Status status = OutputShape(build, most, &output.shape); !status.ok()) return status;
    std::vector<nvinfer1::DynamicPluginTensorDesc> tensors;
    for (const Input& input : most) tensors.push_back(Dynamic(input));
    tensors.push_back(Dynamic(output));
    for (int32_t i = 0; i <= count; ++i) {
      if (!build->supportsFormatCombination(i, tensors.data(), count, 1)) {
        return Status::Error("the plugin does not take the type of tensor " + std::to_string(i));
      }
    }
    if (build->configurePlugin(tensors.data(), count, &tensors.back(), 1) != 0) return Failed("configurePlugin");
    tactics_.resize(static_cast<size_t>(build->getNbTactics()));
    if (build->getValidTactics(tactics_.data(), static_cast<int32_t>(tactics_.size())) != 0) {
      return Failed("getValidTactics");
    }
    workspace_ = build->getWorkspaceSize(tensors.data(), count, &tensors.back(), 1);
    const nvinfer1::PluginFieldCollection* kept = runtime->getFieldsToSerialize();
    if (kept == nullptr) return Failed("getFieldsToSerialize");
    Fields engine;
    engine.Add(*kept);
    const Made loaded(creator_->createPlugin("node", &engine.collection(), nvinfer1::TensorRTPhase::kRUNTIME));
    if (loaded.plugin == nullptr) return Failed("createPlugin of an engine's fields");
    auto* own = Capability<nvinfer1::IPluginV3OneRuntime>(loaded, nvinfer1::PluginCapabilityType::kRUNTIME);
    attached_ = std::make_unique<Made>(own->attachToContext(nullptr));
    return attached_->plugin != nullptr ? Status() : Failed("attachToContext");
  }

  // One run. `tactic` 0 leaves the tile to the plugin's rule.
  Status Enqueue(const std::vector<Input>& inputs, const void* const* data, void* output, void* workspace,
                 int32_t tactic, cudaStream_t stream) {
    auto* runtime = Capability<nvinfer1::IPluginV3OneRuntime>(*attached_, nvinfer1::PluginCapabilityType::kRUNTIME);
    std::vector<nvinfer1::PluginTensorDesc> descs;
    for (const Input& input : inputs) descs.push_back(Desc(input));
    const auto count = static_cast<int32_t>(inputs.size());
    nvinfer1::PluginTensorDesc out = descs[0];
    if (tactic != 0 && runtime->setTactic(tactic) != 0) return Failed("setTactic");
    if (runtime->onShapeChange(descs.data(), count, &out, 1) != 0) return Failed("onShapeChange");
    if (runtime->enqueue(descs.data(), &out, data, &output, workspace, stream) != 0) return Failed("enqueue");
    return {};
  }

  // The shape of the output, from getOutputShapes.
  Status OutputShape(Fields fields, const std::vector<Input>& inputs, std::vector<int64_t>* shape) {
    const Made made(creator_->createPlugin("node", &fields.collection(), nvinfer1::TensorRTPhase::kBUILD));
    if (made.plugin == nullptr) return Failed("createPlugin");
    return OutputShape(Capability<nvinfer1::IPluginV3OneBuild>(made, nvinfer1::PluginCapabilityType::kBUILD), inputs,
                       shape);
  }

  const std::vector<int32_t>& tactics() const { return tactics_; }
  size_t workspace() const { return workspace_; }

 private:
  struct Made {
    explicit Made(nvinfer1::IPluginV3* made) : plugin(made) {}
    ~Made() { delete plugin; }
    Made(const Made&) = delete;
    Made& operator=(const Made&) = delete;
    nvinfer1::IPluginV3* plugin;
  };

  template <class T>
  static T* Capability(const Made& made, nvinfer1::PluginCapabilityType type) {
    return static_cast<T*>(made.plugin->getCapabilityInterface(type));
  }

  Status OutputShape(nvinfer1::IPluginV3OneBuild* build, const std::vector<Input>& inputs,
                     std::vector<int64_t>* shape) {
    Sizes sizes;
    std::vector<nvinfer1::DimsExprs> given;
    for (const Input& input : inputs) {
      nvinfer1::DimsExprs dims{};
      dims.nbDims = static_cast<int32_t>(input.shape.size());
      for (size_t i = 0; i < input.shape.size(); ++i) dims.d[i] = sizes.constant(input.shape[i]);
      given.push_back(dims);
    }
    nvinfer1::DimsExprs output{};
    const auto count = static_cast<int32_t>(given.size());
    if (build->getOutputShapes(given.data(), count, nullptr, 0, &output, 1, sizes) != 0) {
      return Failed("getOutputShapes");
    }
    shape->clear();
    for (int32_t i = 0; i < output.nbDims; ++i) shape->push_back(output.d[i]->getConstantValue());
    return {};
  }

  static nvinfer1::Dims DimsOf(const Input& input) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(input.shape.size());
    for (size_t i = 0; i < input.shape.size(); ++i) dims.d[i] = input.shape[i];
    return dims;
  }
  static nvinfer1::PluginTensorDesc Desc(const Input& input) {
    nvinfer1::PluginTensorDesc desc{};
    desc.dims = DimsOf(input);
    desc.type = input.type;
    desc.format = nvinfer1::TensorFormat::kLINEAR;
    desc.scale = 1.0f;
    return desc;
  }
  static nvinfer1::DynamicPluginTensorDesc Dynamic(const Input& input) {
    nvinfer1::DynamicPluginTensorDesc dynamic{};
    dynamic.desc = Desc(input);
    dynamic.min = dynamic.max = dynamic.opt = dynamic.desc.dims;
    return dynamic;
  }

  Status Failed(const std::string& function) {
    return Status::Error(function + " failed" + (log_.text.empty() ? "" : ": " + log_.text));
  }

  Log log_;
  nvinfer1::IPluginCreatorV3One* creator_ = nullptr;
  std::unique_ptr<Made> attached_;
  std::vector<int32_t> tactics_;
  size_t workspace_ = 0;
};

}  // namespace edgetx::driven
