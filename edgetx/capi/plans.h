// The engines in a package's folder, as edgetx/engines/cache.py writes them: found by their key, checked, chosen.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "edgetx/capi/package.h"

namespace edgetx::capi {

// What an engine must have been built for.
struct Machine {
  std::string tensorrt;  // "10.14.1"
  std::string gpu;
  int major = 0, minor = 0;  // its compute capability
  std::string driver;  // "CUDA 12.6"
};

struct Plan {
  // Symbol -> the least and the largest size.
  using Profile = std::map<std::string, std::array<int64_t, 2>>;

  std::string name;  // of its folder
  std::string path;
  bool plugins = false;
  std::vector<Profile> profiles;  // none where no shape varies
};

// The engine of TensorRT that runs the package on this machine: a measured one (`--tune`) before others, then the
// newest. Throws Error: EDGETX_ERROR_UNAVAILABLE with what each engine is for instead, or that there is none.
Plan FindPlan(const Package& package, const Machine& machine);

// The index of the profile with the smallest volume that holds these sizes, 0 where no shape varies.
// Throws Error: EDGETX_ERROR_ARGUMENT, with the profiles.
size_t ChooseProfile(const Plan& plan, const std::map<std::string, int64_t>& sizes);

}  // namespace edgetx::capi
