#include "edgetx/capi/plans.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <tuple>

#include "edgetx/capi/error.h"
#include "edgetx/capi/sha256.h"

namespace edgetx::capi {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kGraph = "model.onnx";
constexpr const char* kPortable = "portable";  // Ampere (8.0) and later
constexpr int kAmpere = 8;

// The engine's record, as far as it is read; a field that is missing or of another type leaves it unread.
struct Record {
  bool read = false;
  std::string runtime, graph, sha256, created;
  uint64_t size = 0;
  bool tuned = false;
  std::map<std::string, std::string> key;
  std::vector<Plan::Profile> profiles;

  std::string Key(const char* name) const {
    const auto found = key.find(name);
    return found == key.end() ? "none" : found->second;
  }
};

Record Read(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  Record record;
  try {
    const json document = json::parse(text);
    document.at("runtime").get_to(record.runtime);
    document.at("graph").get_to(record.graph);
    document.at("sha256").get_to(record.sha256);
    document.at("created").get_to(record.created);
    document.at("size").get_to(record.size);
    document.at("key").get_to(record.key);
    record.tuned = document.contains("tuned") && !document.at("tuned").empty();
    for (const json& each : document.at("profiles")) {
      Plan::Profile profile;
      for (const auto& [symbol, range] : each.at("ranges").items()) {
        profile[symbol] = {range.at("min").get<int64_t>(), range.at("max").get<int64_t>()};
      }
      record.profiles.push_back(std::move(profile));
    }
    record.read = true;
  } catch (const json::exception&) {
    record.read = false;
  }
  return record;
}

// As model_digest of edgetx/engines/cache.py.
std::string DigestOf(const Manifest& manifest) {
  Sha256 hash;
  for (const std::string& name : {std::string(kGraph), std::string(kGraph) + ".data"}) {
    const auto found = manifest.files.find(name);
    if (found == manifest.files.end()) continue;
    const std::string& digest = found->second.sha256;
    hash.Add(reinterpret_cast<const uint8_t*>(digest.data()), digest.size());
  }
  return hash.Hex().substr(0, 16);
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Python's wheel says 10.14.1.48 where the library says 10.14.1.
bool SameVersion(const std::string& engine, const std::string& version) {
  return engine == version || engine.rfind(version + ".", 0) == 0;
}

// "" where the machine runs the engine, else what the engine is for.
std::string WhyNot(const Record& record, const Package& package, const Machine& machine) {
  const auto other = [](const std::string& what, const std::string& engine, const std::string& here) {
    return "it is for " + what + " " + engine + ", here is " + here;
  };
  if (record.graph != kGraph) return "it is of " + record.graph;
  if (record.Key("model") != DigestOf(package.manifest)) return "it was built from another model";
  if (!SameVersion(record.Key("engine"), "TensorRT " + machine.tensorrt)) {
    return other("", record.Key("engine"), "TensorRT " + machine.tensorrt);
  }
  if (record.Key("precision") != package.manifest.precision) {
    return other("precision", record.Key("precision"), package.manifest.precision);
  }
  for (const char* name : {"bodies", "plugin"}) {
    const std::string text = record.Key(name);
    if (text != "none" && !EndsWith(text, " of edgetx " EDGETX_VERSION)) {
      return other(name, text, "edgetx " EDGETX_VERSION);
    }
  }
  const std::string compute = std::to_string(machine.major) + "." + std::to_string(machine.minor);
  if (record.Key("compute") == kPortable) {
    return machine.major >= kAmpere ? "" : other("compute capability", "8.0 and later", compute);
  }
  if (record.Key("compute") != compute) return other("compute capability", record.Key("compute"), compute);
  if (record.Key("gpu") != machine.gpu) return other("the GPU", record.Key("gpu"), machine.gpu);
  if (record.Key("driver") != machine.driver) return other("the driver of", record.Key("driver"), machine.driver);
  return "";
}

std::string Damage(const Record& record, const std::string& path) {
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  if (error) return "engine.plan cannot be read";
  if (size != record.size) {
    return "engine.plan has " + std::to_string(size) + " bytes, " + std::to_string(record.size) + " were written";
  }
  return HashOf(path) == record.sha256 ? "" : "engine.plan has changed since it was written";
}

std::string Show(const Plan::Profile& profile) {
  std::string text;
  for (const auto& [symbol, range] : profile) {
    text += (text.empty() ? "" : ", ") + symbol + " " + std::to_string(range[0]) + " to " + std::to_string(range[1]);
  }
  return text;
}

}  // namespace

Plan FindPlan(const Package& package, const Machine& machine) {
  std::vector<std::pair<std::string, Record>> candidates;
  std::string reasons;
  const auto refuse = [&reasons](const std::string& name, const std::string& reason) {
    reasons += (reasons.empty() ? "" : "; ") + name + ": " + reason;
  };
  std::error_code error;
  std::vector<fs::path> folders;
  for (fs::directory_iterator at(package.folder + "/engines", error), end; !error && at != end; at.increment(error)) {
    if (at->path().filename().string().rfind("tensorrt-", 0) == 0) folders.push_back(at->path());
  }
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders) {
    Record record = Read(folder / "engine.json");
    const std::string reason = record.read ? WhyNot(record, package, machine) : "engine.json is damaged";
    if (reason.empty()) {
      candidates.emplace_back(folder.string(), std::move(record));
    } else {
      refuse(folder.filename().string(), reason);
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second.tuned, a.second.created) > std::tie(b.second.tuned, b.second.created);
  });
  for (auto& [folder, record] : candidates) {
    Plan plan;
    plan.name = fs::path(folder).filename().string();
    plan.path = folder + "/engine.plan";
    const std::string damage = Damage(record, plan.path);
    if (!damage.empty()) {
      refuse(plan.name, damage);
      continue;
    }
    plan.plugins = record.Key("plugin") != "none";
    plan.profiles = std::move(record.profiles);
    return plan;
  }
  Fail(EDGETX_ERROR_UNAVAILABLE,
       "package " + package.manifest.name + " has no engine that TensorRT " + machine.tensorrt + " runs on " +
           machine.gpu + (reasons.empty() ? " (it has none at all)" : " (" + reasons + ")") +
           "; build one on this machine: edgetx build " + package.folder + " --runtime tensorrt");
}

size_t ChooseProfile(const Plan& plan, const std::map<std::string, int64_t>& sizes) {
  size_t best = plan.profiles.size();
  double least = 0;
  std::string shown;
  for (size_t i = 0; i < plan.profiles.size(); ++i) {
    double volume = 1;
    bool holds = true;
    for (const auto& [symbol, range] : plan.profiles[i]) {
      const auto size = sizes.find(symbol);
      holds = holds && size != sizes.end() && range[0] <= size->second && size->second <= range[1];
      volume *= static_cast<double>(range[1]);
    }
    if (holds && (best == plan.profiles.size() || volume < least)) {
      best = i;
      least = volume;
    }
    shown += (i != 0 ? " | " : "") + Show(plan.profiles[i]);
  }
  if (plan.profiles.empty()) return 0;
  if (best < plan.profiles.size()) return best;
  std::string given;
  for (const auto& [symbol, size] : sizes) {
    given += (given.empty() ? "" : ", ") + symbol + " " + std::to_string(size);
  }
  Fail(EDGETX_ERROR_ARGUMENT, given + ": outside the profiles of engine " + plan.name + " (" + shown +
                                  "); build one that holds it: edgetx build PKG --runtime tensorrt "
                                  "--range SYMBOL=MIN:BEST:MAX");
}

}  // namespace edgetx::capi
