// What operators share that work row by row: on tensors [..., C], with one vector [C] for all rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edgetx/ops/native/status.h"

namespace edgetx {

using RowsShape = std::vector<int64_t>;

// "[1, 49, 96]"
std::string Text(const RowsShape& shape);

// The product of all axes but the last; the shape has at least one.
int64_t CountRows(const RowsShape& shape);

// Whether a tensor of this name has an axis to work along.
Status CheckRows(const char* op, const char* name, const RowsShape& shape);

// Whether `shape` is that of the rows' tensor `of`, or that of a vector for each of its rows.
Status CheckSame(const char* op, const char* name, const RowsShape& shape, const char* of_name, const RowsShape& of);
Status CheckVector(const char* op, const char* name, const RowsShape& shape, const char* of_name,
                   const RowsShape& of);

// Into how many tasks to cut rows that move `bytes_per_row` each: large enough to be worth a thread's while,
// small enough to stay in a core's cache, at most 64, and none for no rows.
int64_t CountTasks(int64_t rows, int64_t bytes_per_row);

}  // namespace edgetx
