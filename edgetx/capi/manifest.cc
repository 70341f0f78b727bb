#include "edgetx/capi/manifest.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "edgetx/capi/error.h"

namespace edgetx::capi {
namespace {

using nlohmann::json;

constexpr int64_t kSchemaVersion = 2;
constexpr const char* kModel = "model.onnx";
constexpr int64_t kLongestSide = int64_t{1} << 20;  // of a picture that a processor makes
constexpr const char* kInterpolations[] = {"nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"};

constexpr struct {
  const char* name;
  edgetx_dtype dtype;
  size_t bytes;
} kDtypes[] = {
    {"float32", EDGETX_FLOAT32, 4}, {"float16", EDGETX_FLOAT16, 2}, {"bfloat16", EDGETX_BFLOAT16, 2},
    {"float64", EDGETX_FLOAT64, 8}, {"int8", EDGETX_INT8, 1},       {"uint8", EDGETX_UINT8, 1},
    {"int32", EDGETX_INT32, 4},     {"int64", EDGETX_INT64, 8},     {"bool", EDGETX_BOOL, 1},
};

// A value of the document and where it stands, for the messages.
class Field {
 public:
  Field(const json& value, std::string at, const std::string& path)
      : value_(value), at_(std::move(at)), path_(path) {}

  const json& value() const { return value_; }

  [[noreturn]] void Refuse(const std::string& expected) const {
    Fail(EDGETX_ERROR_PACKAGE, path_ + ": field " + (at_.empty() ? "(the document)" : at_) + ": expected " +
                                   expected + ", got " + Shown() + "; export the model again");
  }

  bool Has(const char* key) const {
    if (!value_.is_object()) Refuse("an object");
    const auto found = value_.find(key);
    return found != value_.end() && !found->is_null();
  }

  Field operator[](const char* key) const {
    if (!value_.is_object()) Refuse("an object");
    const auto found = value_.find(key);
    if (found == value_.end()) {
      Fail(EDGETX_ERROR_PACKAGE, path_ + ": missing required field " + Name(key) + "; export the model again");
    }
    return Field(*found, Name(key), path_);
  }

  std::vector<Field> Items() const {
    if (!value_.is_array()) Refuse("a list");
    std::vector<Field> items;
    for (size_t i = 0; i < value_.size(); ++i) {
      items.emplace_back(value_[i], at_ + "[" + std::to_string(i) + "]", path_);
    }
    return items;
  }

  std::vector<std::pair<std::string, Field>> Entries() const {
    if (!value_.is_object()) Refuse("an object");
    std::vector<std::pair<std::string, Field>> entries;
    for (auto it = value_.begin(); it != value_.end(); ++it) {
      entries.emplace_back(it.key(), Field(it.value(), at_ + "['" + it.key() + "']", path_));
    }
    return entries;
  }

  std::string Text() const {
    if (!value_.is_string()) Refuse("text");
    return value_.get<std::string>();
  }

  // The upper limit keeps products of sizes far from overflow.
  int64_t Integer(int64_t least, int64_t most = int64_t{1} << 40) const {
    const bool fits = value_.is_number_unsigned()
                          ? value_.get<uint64_t>() <= static_cast<uint64_t>(most)
                          : value_.is_number_integer() && value_.get<int64_t>() <= most;
    if (!fits || value_.get<int64_t>() < least) {
      Refuse("an integer from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return value_.get<int64_t>();
  }

  double Number() const {
    if (!value_.is_number() || !std::isfinite(value_.get<double>())) Refuse("a finite number");
    return value_.get<double>();
  }

  bool Boolean() const {
    if (!value_.is_boolean()) Refuse("true or false");
    return value_.get<bool>();
  }

 private:
  std::string Name(const char* key) const { return at_.empty() ? key : at_ + "." + key; }

  std::string Shown() const {
    // Only plain values are written out: lists can be nested deeper than the stack goes.
    if (value_.is_structured()) return value_.is_array() ? "a list" : "an object";
    // What is not UTF-8 is replaced, not thrown at.
    std::string text = value_.dump(-1, ' ', false, json::error_handler_t::replace);
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
  }

  const json& value_;
  std::string at_;
  const std::string& path_;
};

edgetx_dtype ParseDtype(const Field& field) {
  const std::string name = field.Text();
  for (const auto& each : kDtypes) {
    if (name == each.name) return each.dtype;
  }
  field.Refuse("a dtype such as float32");
}

TensorSpec ParseTensor(const Field& field) {
  TensorSpec spec;
  spec.name = field["name"].Text();
  if (spec.name.empty()) field["name"].Refuse("a name");
  spec.dtype = ParseDtype(field["dtype"]);
  for (const Field& each : field["shape"].Items()) {
    Dim dim;
    if (each.value().is_string()) {
      dim.symbol = each.Text();
      if (dim.symbol.empty()) each.Refuse("a size or a symbol");
    } else {
      dim.size = each.Integer(1);
    }
    spec.shape.push_back(dim);
  }
  if (spec.shape.size() > EDGETX_MAX_RANK) {
    field["shape"].Refuse("at most " + std::to_string(EDGETX_MAX_RANK) + " dimensions");
  }
  return spec;
}

std::vector<TensorSpec> ParseTensors(const Field& field) {
  std::vector<TensorSpec> specs;
  for (const Field& each : field.Items()) specs.push_back(ParseTensor(each));
  return specs;
}

bool IsInside(const std::string& name) {
  if (name.empty() || name.front() == '/' || name.back() == '/') return false;
  if (name.find_first_of(std::string("\\:\0", 3)) != std::string::npos) return false;
  for (size_t start = 0; start <= name.size();) {
    const size_t end = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    if (start == 0 && (part == "engines" || part == "manifest.json")) return false;
    start = end + 1;
  }
  return true;
}

std::string ParseHex(const Field& field, size_t digits) {
  const std::string text = field.Text();
  if (text.size() != digits || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    field.Refuse(std::to_string(digits) + " hexadecimal digits");
  }
  return text;
}

std::map<std::string, FileEntry> ParseFiles(const Field& field, const std::string& path) {
  std::map<std::string, FileEntry> files;
  for (const auto& [name, entry] : field.Entries()) {
    if (!IsInside(name)) {
      Fail(EDGETX_ERROR_PACKAGE, path + ": field files['" + name +
                                     "']: expected a path inside the package folder, with forward slashes and "
                                     "without '..'");
    }
    FileEntry file;
    file.size = static_cast<uint64_t>(entry["size"].Integer(0));
    file.sha256 = ParseHex(entry["sha256"], 64);
    if (entry.Has("crc32")) file.crc32 = ParseHex(entry["crc32"], 8);
    files.emplace(name, file);
  }
  if (files.count(kModel) == 0) Fail(EDGETX_ERROR_PACKAGE, path + ": field files: model.onnx is missing");
  return files;
}

template <class T, size_t N, class Read>
std::array<T, N> Several(const Field& field, Read read) {
  const std::vector<Field> items = field.Items();
  if (items.size() != N) field.Refuse(std::to_string(N) + " numbers");
  std::array<T, N> values;
  for (size_t i = 0; i < N; ++i) values[i] = read(items[i]);
  return values;
}

// What is absent has the default that the Python processor gives it.
ImageSettings ParseImage(const Field& field) {
  ImageSettings image;
  image.size = Several<int64_t, 2>(field["size"], [](const Field& each) { return each.Integer(1, kLongestSide); });
  image.mean = {0.485, 0.456, 0.406};
  image.std = {0.229, 0.224, 0.225};
  const auto number = [](const Field& each) { return each.Number(); };
  if (field.Has("mean")) image.mean = Several<double, 3>(field["mean"], number);
  if (field.Has("std")) image.std = Several<double, 3>(field["std"], number);
  for (const double each : image.std) {
    if (!(each > 0)) field["std"].Refuse("positive numbers");
  }
  image.interpolation = field.Has("interpolation") ? field["interpolation"].Text() : "bicubic";
  bool known = false;
  for (const char* each : kInterpolations) known |= image.interpolation == each;
  if (!known) field["interpolation"].Refuse("nearest, bilinear, bicubic, lanczos, box or hamming");
  if (field.Has("crop_pct")) image.crop_pct = field["crop_pct"].Number();
  if (!(image.crop_pct > 0 && image.crop_pct <= 1)) field["crop_pct"].Refuse("a number in (0, 1]");
  image.crop_mode = field.Has("crop_mode") ? field["crop_mode"].Text() : "center";
  if (image.crop_mode != "center" && image.crop_mode != "squash") field["crop_mode"].Refuse("center or squash");
  if (field.Has("resize_size")) image.resize_size = field["resize_size"].Integer(1, kLongestSide);
  if (field.Has("native_size")) image.native_size = field["native_size"].Boolean();
  if (field.Has("labels")) {
    image.has_labels = true;
    for (const Field& each : field["labels"].Items()) image.labels.push_back(each.Text());
  }
  return image;
}

RestorationSettings ParseRestoration(const Field& field) {
  RestorationSettings restoration;
  if (field.Has("scale")) restoration.scale = field["scale"].Integer(1);
  if (field.Has("channels")) restoration.channels = field["channels"].Integer(1);
  if (field.Has("out_channels")) restoration.out_channels = field["out_channels"].Integer(1);
  if (field.Has("value_range")) restoration.value_range = field["value_range"].Number();
  if (!(restoration.value_range > 0)) field["value_range"].Refuse("a positive number");
  restoration.regions = field.Has("regions");
  return restoration;
}

Processor ParseProcessor(const Field& field) {
  Processor processor;
  processor.kind = field["kind"].Text();
  if (field.Has("input")) processor.input = field["input"].Text();
  if (field.Has("output")) processor.output = field["output"].Text();
  if (processor.kind == "image-classification" || processor.kind == "image-features") {
    processor.image = ParseImage(field);
  } else if (processor.kind == "image-restoration") {
    processor.restoration = ParseRestoration(field);
  }
  return processor;
}

}  // namespace

const SymbolRange& Manifest::Range(const Dim& dim) const {
  static const SymbolRange any;
  const auto found = symbols.find(dim.symbol);
  return found == symbols.end() ? any : found->second;
}

Manifest ParseManifest(const std::string& text, const std::string& path) {
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) {
    Fail(EDGETX_ERROR_PACKAGE, path + " is not valid JSON; copy or export the package again");
  }
  const Field root(document, "", path);
  const int64_t schema = root["schema_version"].Integer(1);
  if (schema > kSchemaVersion) {
    Fail(EDGETX_ERROR_PACKAGE, path + " has schema version " + std::to_string(schema) +
                                   "; this library understands up to version " + std::to_string(kSchemaVersion) +
                                   ": use a newer libedgetx");
  }
  Manifest manifest;
  manifest.name = root["name"].Text();
  manifest.architecture = root["architecture"].Text();
  manifest.precision = root.Has("precision") ? root["precision"].Text() : "float32";
  manifest.bodies = root.Has("bodies") ? root["bodies"].Text() : "none";
  manifest.has_operators = root.Has("operators") && !root["operators"].Entries().empty();
  const Field io = root["io"];
  manifest.inputs = ParseTensors(io["inputs"]);
  manifest.outputs = ParseTensors(io["outputs"]);
  if (io.Has("symbols")) {
    for (const auto& [name, entry] : io["symbols"].Entries()) {
      SymbolRange range;
      if (entry.Has("min")) range.min = entry["min"].Integer(0);
      if (entry.Has("max")) range.max = entry["max"].Integer(1);
      if (entry.Has("step")) range.step = entry["step"].Integer(1);
      manifest.symbols.emplace(name, range);
    }
  }
  manifest.files = ParseFiles(root["files"], path);
  if (root.Has("processor")) manifest.processor = ParseProcessor(root["processor"]);
  return manifest;
}

std::string Show(const TensorSpec& spec) {
  std::string text = spec.name + "=" + DtypeName(spec.dtype) + "[";
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    const Dim& dim = spec.shape[i];
    text += (i != 0 ? "," : "") + (dim.size != 0 ? std::to_string(dim.size) : dim.symbol);
  }
  return text + "]";
}

const char* DtypeName(edgetx_dtype dtype) {
  for (const auto& each : kDtypes) {
    if (each.dtype == dtype) return each.name;
  }
  return "unknown";
}

size_t DtypeBytes(edgetx_dtype dtype) {
  for (const auto& each : kDtypes) {
    if (each.dtype == dtype) return each.bytes;
  }
  return 0;
}

}  // namespace edgetx::capi
