#include "edgetx/capi/library.h"

#include <sys/stat.h>

namespace edgetx::capi {
namespace {

bool IsFile(const std::string& path) {
  struct stat found;
  return stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}

}  // namespace

std::string FindOperators(const char* asked, const char* variable, const std::string& file, std::string* reason) {
  if (asked != nullptr && *asked == '\0') {
    *reason = "custom operators are switched off";
    return "";
  }
  if (asked == nullptr) asked = std::getenv(variable);
  if (asked != nullptr && *asked != '\0') {
    if (!IsFile(asked)) Fail(EDGETX_ERROR_UNAVAILABLE, "the operator library " + std::string(asked) + " is no file");
    return asked;
  }
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&IsFile), &info) != 0 && info.dli_fname != nullptr) {
    const std::string here(info.dli_fname);
    const size_t slash = here.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : here.substr(0, slash);
    // Installed side by side, or as the Python package lays them out.
    for (const char* beside : {"/", "/../../ops/"}) {
      if (IsFile(folder + beside + file)) return folder + beside + file;
    }
  }
  *reason = file + " is not beside this library";
  return "";
}

}  // namespace edgetx::capi
