// The border between the plan and its vector code.
#pragma once

#include "edgetx/ops/window_attention/kernel.h"

namespace edgetx::window_attention {

using RunFunction = void (*)(const Plan&, const Tensors&, int64_t, int64_t, std::byte*);

// The implementation for the highest compiled instruction set that `level` includes.
RunFunction SelectRun(CpuLevel level);

}  // namespace edgetx::window_attention
