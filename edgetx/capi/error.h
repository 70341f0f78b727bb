// What goes wrong inside the library; api.cc turns it into a status and a text.
#pragma once

#include <stdexcept>
#include <string>

#include "edgetx.h"

namespace edgetx::capi {

class Error : public std::runtime_error {
 public:
  Error(edgetx_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  edgetx_status status() const { return status_; }

 private:
  edgetx_status status_;
};

[[noreturn]] inline void Fail(edgetx_status status, const std::string& message) { throw Error(status, message); }

}  // namespace edgetx::capi
