// What of a package's manifest.json the library uses; docs/package.md describes the whole.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "edgetx.h"

namespace edgetx::capi {

struct Dim {
  int64_t size = 0;    // 0: `symbol`
  std::string symbol;
};

struct TensorSpec {
  std::string name;
  edgetx_dtype dtype = EDGETX_FLOAT32;
  std::vector<Dim> shape;
};

struct SymbolRange {
  int64_t min = 1;
  int64_t max = 0;  // 0: no limit
  int64_t step = 1;
};

struct FileEntry {
  std::string sha256;
  std::string crc32;  // "" in packages of schema 1
  uint64_t size = 0;
};

// Photographs, as edgetx/processors/classification.py.
struct ImageSettings {
  std::array<int64_t, 2> size{};  // height, width
  std::array<double, 3> mean{};
  std::array<double, 3> std{};
  std::string interpolation;
  double crop_pct = 1.0;
  std::string crop_mode;
  std::optional<int64_t> resize_size;
  bool native_size = false;
  std::vector<std::string> labels;
  bool has_labels = false;
};

// Pictures, as edgetx/processors/restoration.py.
struct RestorationSettings {
  int64_t scale = 1;
  int64_t channels = 3;
  int64_t out_channels = 3;
  double value_range = 1.0;
  bool regions = false;
};

struct Processor {
  std::string kind;  // "" without one
  std::optional<std::string> input;
  std::optional<std::string> output;
  ImageSettings image;
  RestorationSettings restoration;
};

struct Manifest {
  std::string name;
  std::string architecture;
  std::string precision;
  std::string bodies;
  bool has_operators = false;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::map<std::string, SymbolRange> symbols;
  std::map<std::string, FileEntry> files;
  Processor processor;

  const SymbolRange& Range(const Dim& dim) const;
};

// Throws Error with EDGETX_ERROR_PACKAGE that names the field. `path` is for the messages.
Manifest ParseManifest(const std::string& text, const std::string& path);

// `float32[batch,3,height,width]`.
std::string Show(const TensorSpec& spec);
const char* DtypeName(edgetx_dtype dtype);
size_t DtypeBytes(edgetx_dtype dtype);

}  // namespace edgetx::capi
