// The border between the plan and its vector code.
#pragma once

#include "edgetx/ops/group_attention/kernel.h"

namespace edgetx::group_attention {

using RunFunction = void (*)(const Plan&, int64_t, int64_t, std::byte*);

// The implementation for the highest compiled instruction set that `level` includes.
RunFunction SelectRun(CpuLevel level);

}  // namespace edgetx::group_attention
