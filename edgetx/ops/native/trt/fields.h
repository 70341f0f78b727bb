// Plugin fields: how TensorRT hands an ONNX node's attributes over, and how an engine keeps them.
//
// An operator's `Fields` struct has `template <class V> void Visit(V& visit)`, which calls `visit(name, member)` for
// every attribute; members are int32_t, float, std::array<int32_t, 2> and std::string.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "edgetx/ops/native/status.h"

namespace edgetx::trt {

// The form in which engines keep the fields; another form is never read.
constexpr int32_t kFormat = 1;
constexpr char kFormatName[] = "edgetx_format";
constexpr char kInputsName[] = "edgetx_inputs";

struct FieldForm {
  nvinfer1::PluginFieldType type;
  int32_t length;
  const void* data;
};
inline FieldForm FormOf(const int32_t& value) { return {nvinfer1::PluginFieldType::kINT32, 1, &value}; }
inline FieldForm FormOf(const float& value) { return {nvinfer1::PluginFieldType::kFLOAT32, 1, &value}; }
inline FieldForm FormOf(const std::array<int32_t, 2>& pair) {
  return {nvinfer1::PluginFieldType::kINT32, 2, pair.data()};
}
inline FieldForm FormOf(const std::string& text) {
  return {nvinfer1::PluginFieldType::kCHAR, static_cast<int32_t>(text.size()), text.data()};
}

// Collects fields that point into the visited struct.
class FieldList {
 public:
  template <class T>
  void operator()(const char* name, const T& member) {
    const FieldForm form = FormOf(member);
    fields_.emplace_back(name, form.data, form.type, form.length);
  }
  nvinfer1::PluginFieldCollection collection() const {
    nvinfer1::PluginFieldCollection collection;
    collection.nbFields = static_cast<int32_t>(fields_.size());
    collection.fields = fields_.data();
    return collection;
  }
  std::vector<nvinfer1::PluginField>& fields() { return fields_; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
};

// Fills the visited struct; the first problem stays.
class FieldReader {
 public:
  FieldReader(const char* plugin, const nvinfer1::PluginFieldCollection& given) : plugin_(plugin), given_(given) {}

  void operator()(const char* name, int32_t& value) { Copy(name, value, 1, &value); }
  void operator()(const char* name, float& value) { Copy(name, value, 1, &value); }
  void operator()(const char* name, std::array<int32_t, 2>& pair) { Copy(name, pair, 2, pair.data()); }
  void operator()(const char* name, std::string& text) {
    const nvinfer1::PluginField* field = Find(name, nvinfer1::PluginFieldType::kCHAR);
    if (field == nullptr) return;
    text.assign(static_cast<const char*>(field->data), static_cast<size_t>(field->length));
    // Some parsers count a terminating zero.
    while (!text.empty() && text.back() == '\0') text.pop_back();
  }
  const nvinfer1::PluginField* Find(const char* name) const {
    for (int32_t i = 0; i < given_.nbFields; ++i) {
      if (std::strcmp(given_.fields[i].name, name) == 0) return given_.fields + i;
    }
    return nullptr;
  }
  const Status& status() const { return status_; }

 private:
  const nvinfer1::PluginField* Find(const char* name, nvinfer1::PluginFieldType type) {
    const nvinfer1::PluginField* field = Find(name);
    if (field == nullptr || field->data == nullptr) {
      Fail("lacks its attribute " + std::string(name));
      return nullptr;
    }
    if (field->type != type) {
      Fail("has the attribute " + std::string(name) + " of type " + std::to_string(static_cast<int>(field->type)) +
           "; expected " + std::to_string(static_cast<int>(type)));
      return nullptr;
    }
    return field;
  }
  template <class T>
  void Copy(const char* name, const T& member, int32_t length, void* to) {
    const nvinfer1::PluginField* field = Find(name, FormOf(member).type);
    if (field == nullptr) return;
    if (field->length != length) {
      Fail("has " + std::to_string(field->length) + " values in its attribute " + name + "; expected " +
           std::to_string(length));
      return;
    }
    std::memcpy(to, field->data, static_cast<size_t>(length) * 4);
  }
  void Fail(const std::string& problem) {
    if (status_.ok()) status_ = Status::Error(std::string(plugin_) + " " + problem);
  }

  const char* plugin_;
  const nvinfer1::PluginFieldCollection& given_;
  Status status_;
};

}  // namespace edgetx::trt
