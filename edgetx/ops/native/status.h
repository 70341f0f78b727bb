// The outcome of an operation that can fail: nothing, or what went wrong.
#pragma once

#include <string>
#include <utility>

namespace edgetx {

class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status Error(std::string message) {
    Status status;
    status.message_ = std::move(message);
    return status;
  }
  bool ok() const { return message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

}  // namespace edgetx
