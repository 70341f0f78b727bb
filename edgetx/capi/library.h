// Shared libraries that are opened at run time: engines, and edgetx's operators for them.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "edgetx/capi/error.h"

namespace edgetx::capi {

// What was made of each library, by the name that was asked for. A library is never unloaded: its threads may outlive
// a session.
template <class T>
class Libraries {
 public:
  // `asked`, else what the variable names, else the first of `names` that opens, through load(name, handle).
  // Throws Error, EDGETX_ERROR_UNAVAILABLE: none does; `title` and `advice` are for the text.
  template <class Load>
  const T& Get(const std::string& asked, const char* variable, std::vector<std::string> names, Load load,
               const std::string& title, const std::string& advice) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = loaded_.find(asked);
    if (found != loaded_.end()) return found->second;
    const char* chosen = std::getenv(variable);
    if (!asked.empty()) {
      names = {asked};
    } else if (chosen != nullptr && *chosen != '\0') {
      names = {chosen};
    }
    std::string reasons;
    for (const std::string& name : names) {
      if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
        return loaded_.emplace(asked, load(name, library)).first->second;
      }
      reasons += (reasons.empty() ? "" : "; ") + std::string(dlerror());
    }
    Fail(EDGETX_ERROR_UNAVAILABLE, title + " cannot be loaded (" + reasons + "); " + advice);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, T> loaded_;
};

// The file of edgetx's operators for an engine: `asked`, else what the variable names, else `file` beside this library
// or where the Python package has it. "" with the reason where there is none, or `asked` is "".
// Throws Error, EDGETX_ERROR_UNAVAILABLE: a file that was named is none.
std::string FindOperators(const char* asked, const char* variable, const std::string& file, std::string* reason);

}  // namespace edgetx::capi
