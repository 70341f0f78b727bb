// Runs the plugin library's plugins on a GPU, tensors from files and into files, without TensorRT's libraries:
//
//   plugin_enqueue LIBRARY CASE...
//
// A case is a file of lines; file names are relative to it:
//   plugin WindowAttention
//   ints window 7 7             an attribute, as `floats` and `text` are
//   input half qkv.bin 2 14 28 288
//   output out                  each tactic's goes to out.<tactic>; the rule's own choice is tactic 0
//
// Prints `CASE tactic NUMBER` for every file that it wrote; exit code 1 with a line on stderr for what failed.
// Outputs start as NaN between guards, so that what no kernel writes, and what one writes beside, is found.

#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "edgetx/ops/native/cuda/driver.h"
#include "tests/native/plugin_driver.h"

namespace {

using edgetx::Status;
using edgetx::cuda::DevicePointer;
using edgetx::cuda::Driver;
using edgetx::driven::Input;
using edgetx::driven::Type;

constexpr size_t kGuard = 256;  // bytes before and behind an output; keeps it as aligned as engines do
constexpr char kGuardByte = 0x5a;
constexpr char kFill = -1;  // NaN in every dtype of an output

const std::map<std::string, std::pair<Type, size_t>>& Types() {
  static const std::map<std::string, std::pair<Type, size_t>> types = {
      {"float", {Type::kFLOAT, 4}}, {"half", {Type::kHALF, 2}}, {"bfloat16", {Type::kBF16, 2}},
      {"int32", {Type::kINT32, 4}}};
  return types;
}

struct Work {
  std::string plugin;
  std::string output;
  edgetx::driven::Fields fields;
  std::vector<Input> inputs;
  std::vector<std::string> files;
  size_t output_bytes = 0;  // of one number
};

template <class T>
std::vector<T> Rest(std::istringstream& line) {
  std::vector<T> values;
  for (T value; line >> value;) values.push_back(value);
  return values;
}

Status Read(const std::string& path, Work* work) {
  std::ifstream file(path);
  if (!file) return Status::Error("it cannot be read");
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string kind;
    std::string name;
    line >> kind >> name;
    if (kind == "plugin") {
      work->plugin = name;
    } else if (kind == "ints") {
      work->fields.Ints(name, Rest<int32_t>(line));
    } else if (kind == "floats") {
      work->fields.Floats(name, Rest<float>(line));
    } else if (kind == "text") {
      std::string value;
      line >> value;
      work->fields.Text(name, value);
    } else if (kind == "input" && Types().count(name) != 0) {
      std::string data;
      line >> data;
      work->files.push_back(folder + data);
      work->inputs.push_back({Types().at(name).first, Rest<int64_t>(line)});
      if (work->inputs.size() == 1) work->output_bytes = Types().at(name).second;
    } else if (kind == "output") {
      work->output = folder + name;
    } else {
      return Status::Error("what is: " + text);
    }
  }
  return {};
}

// The device's memory, freed with the object.
class Memory {
 public:
  explicit Memory(const Driver& driver) : driver_(driver) {}
  ~Memory() {
    if (at_ != 0) (void)driver_.MemFree(at_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Status Set(const std::string& bytes) {
    if (at_ == 0) {
      Status status = driver_.Check(driver_.MemAlloc(&at_, bytes.size() + 1), "cuMemAlloc");
      if (!status.ok()) return status;
    }
    return driver_.Check(driver_.MemcpyHtoD(at_, bytes.data(), bytes.size()), "cuMemcpyHtoD");
  }
  void* at(size_t offset = 0) const { return reinterpret_cast<void*>(static_cast<uintptr_t>(at_) + offset); }

 private:
  const Driver& driver_;
  DevicePointer at_ = 0;
};

Status RunTactic(const Driver& driver, edgetx::driven::Plugin* plugin, const Work& work,
                 const std::vector<const void*>& data, size_t bytes, int32_t tactic) {
  Memory output(driver);
  Memory workspace(driver);
  const std::string guard(kGuard, kGuardByte);
  if (Status status = output.Set(guard + std::string(bytes, kFill) + guard); !status.ok()) return status;
  if (Status status = workspace.Set(std::string(plugin->workspace(), kGuardByte)); !status.ok()) return status;
  Status status = plugin->Enqueue(work.inputs, data.data(), output.at(kGuard), workspace.at(), tactic, nullptr);
  if (!status.ok()) return status;
  status = driver.Check(driver.CtxSynchronize(), "cuCtxSynchronize");
  if (!status.ok()) return status;
  std::string result(bytes + 2 * kGuard, '\0');
  status = driver.Check(driver.MemcpyDtoH(result.data(), reinterpret_cast<uintptr_t>(output.at()), result.size()),
                        "cuMemcpyDtoH");
  if (!status.ok()) return status;
  if (result.compare(0, kGuard, guard) != 0 || result.compare(kGuard + bytes, kGuard, guard) != 0) {
    return Status::Error("the kernel wrote beside its output");
  }
  const std::string path = work.output + "." + std::to_string(tactic);
  std::ofstream file(path, std::ios::binary);
  file.write(result.data() + kGuard, static_cast<std::streamsize>(bytes));
  return file.flush() ? Status() : Status::Error(path + " cannot be written");
}

Status Run(const Driver& driver, const std::string& library, const std::string& path) {
  Work work;
  if (Status status = Read(path, &work); !status.ok()) return status;
  edgetx::driven::Plugin plugin;
  if (Status status = plugin.Open(library, work.plugin); !status.ok()) return status;
  if (Status status = plugin.Build(work.fields, work.inputs); !status.ok()) return status;
  std::vector<int64_t> shape;
  if (Status status = plugin.OutputShape(work.fields, work.inputs, &shape); !status.ok()) return status;
  size_t bytes = work.output_bytes;
  for (const int64_t size : shape) bytes *= static_cast<size_t>(size);

  std::vector<std::unique_ptr<Memory>> memory;
  std::vector<const void*> data;
  for (const std::string& name : work.files) {
    std::ifstream file(name, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    if (!file) return Status::Error(name + " cannot be read");
    memory.push_back(std::make_unique<Memory>(driver));
    if (Status status = memory.back()->Set(content.str()); !status.ok()) return status;
    data.push_back(memory.back()->at());
  }
  std::vector<int32_t> tactics = plugin.tactics();
  tactics.push_back(0);
  for (const int32_t tactic : tactics) {
    if (Status status = RunTactic(driver, &plugin, work, data, bytes, tactic); !status.ok()) {
      return Status::Error("tactic " + std::to_string(tactic) + ": " + status.message());
    }
    std::printf("%s tactic %d\n", path.c_str(), tactic);
  }
  return {};
}

Status Start(const Driver** driver) {
  if (Status status = edgetx::cuda::GetDriver(driver); !status.ok()) return status;
  edgetx::cuda::Context context = nullptr;
  Status status = (*driver)->Check((*driver)->DevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
  if (!status.ok()) return status;
  return (*driver)->Check((*driver)->CtxSetCurrent(context), "cuCtxSetCurrent");
}

}  // namespace

int main(int count, char** argv) {
  if (count < 3) {
    std::fprintf(stderr, "usage: plugin_enqueue LIBRARY CASE...\n");
    return 2;
  }
  const Driver* driver = nullptr;
  if (Status status = Start(&driver); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return 1;
  }
  for (int i = 2; i < count; ++i) {
    if (Status status = Run(*driver, argv[1], argv[i]); !status.ok()) {
      std::fprintf(stderr, "%s: %s\n", argv[i], status.message().c_str());
      return 1;
    }
  }
  return 0;
}
