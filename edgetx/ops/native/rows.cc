#include "edgetx/ops/native/rows.h"

#include <algorithm>

namespace edgetx {
namespace {

constexpr int64_t kTaskBytes = 128 * 1024;
constexpr int64_t kMaxTasks = 64;

Status Unexpected(const char* op, const char* name, const RowsShape& shape, const RowsShape& expected,
                  const char* of_name, const RowsShape& of) {
  return Status::Error(std::string(op) + ": " + name + " has shape " + Text(shape) + "; expected " + Text(expected) +
                       ", since " + of_name + " has shape " + Text(of));
}

}  // namespace

std::string Text(const RowsShape& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

int64_t CountRows(const RowsShape& shape) {
  int64_t rows = 1;
  for (size_t axis = 0; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
  return rows;
}

Status CheckRows(const char* op, const char* name, const RowsShape& shape) {
  if (!shape.empty()) return {};
  return Status::Error(std::string(op) + ": " + name + " is a scalar; expected at least one axis, the channels");
}

Status CheckSame(const char* op, const char* name, const RowsShape& shape, const char* of_name,
                 const RowsShape& of) {
  return shape == of ? Status() : Unexpected(op, name, shape, of, of_name, of);
}

Status CheckVector(const char* op, const char* name, const RowsShape& shape, const char* of_name,
                   const RowsShape& of) {
  const RowsShape expected{of.back()};
  return shape == expected ? Status() : Unexpected(op, name, shape, expected, of_name, of);
}

int64_t CountTasks(int64_t rows, int64_t bytes_per_row) {
  const int64_t most = std::min(rows, kMaxTasks);
  return most == 0 ? 0 : std::clamp<int64_t>(rows * bytes_per_row / kTaskBytes, 1, most);
}

}  // namespace edgetx
