// What makes plugins of an operator: from an ONNX node's attributes, or from an engine's fields.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "edgetx/ops/native/trt/plugin.h"

namespace edgetx::trt {

template <class Op>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() {
    Op().fields.Visit(names_);
    // Names and types only; the values above are gone.
    for (nvinfer1::PluginField& field : names_.fields()) {
      field.data = nullptr;
      field.length = 0;
    }
    collection_ = names_.collection();
  }
  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    Guard([&]() -> Status {
      int32_t inputs = Op::kFewestInputs;
      if (phase == nvinfer1::TensorRTPhase::kRUNTIME) {
        if (Status status = CheckFormat(*given); !status.ok()) return status;
        FieldReader reader(Op::kName, *given);
        reader(kInputsName, inputs);
        if (!reader.status().ok()) return reader.status();
      }
      Op op;
      FieldReader reader(Op::kName, *given);
      op.fields.Visit(reader);
      if (!reader.status().ok()) return reader.status();
      if (Status status = op.Finish(); !status.ok()) return status;
      plugin = std::make_unique<Plugin<Op>>(std::move(op), inputs).release();
      return {};
    });
    return plugin;
  }

 private:
  static Status CheckFormat(const nvinfer1::PluginFieldCollection& given) {
    FieldReader reader(Op::kName, given);
    int32_t format = 0;
    reader(kFormatName, format);
    if (reader.status().ok() && format == kFormat) return {};
    return Status::Error(std::string(Op::kName) + ": this engine was built with an edgetx plugin of format " +
                         (reader.status().ok() ? std::to_string(format) : "unknown") + ", this one (edgetx " +
                         EDGETX_VERSION + ") reads format " + std::to_string(kFormat) +
                         "; build the engine again, or use the edgetx that built it");
  }

  FieldList names_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace edgetx::trt
