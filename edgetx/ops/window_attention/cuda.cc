#include "edgetx/ops/window_attention/cuda.h"

namespace edgetx::window_attention {
namespace {

// Bits of the kernel's `flags`.
enum Flag : int32_t { kHasBias = 1, kHasScale = 2, kHasPad = 4, kHasMask = 8 };

int32_t Int(int64_t value) { return static_cast<int32_t>(value); }

}  // namespace

cuda::Need KernelNeed(const Attributes& a, DType dtype, int64_t channels) {
  cuda::Need need;
  need.kernel = "window_attention_kernel";
  need.dtype = cuda::CodeOf(dtype);
  need.head_size = a.head_size;
  need.value_size = channels / a.num_heads - 2 * a.head_size;
  need.variant = a.qk_norm == QkNorm::kL2 ? 1 : 0;
  return need;
}

Status Launch(const Attributes& a, const Shape& qkv, const GpuTensors& t, int32_t wished, cuda::Stream stream) {
  // The kernel counts tokens and, within one map, elements of a row by 32-bit numbers.
  for (const int64_t size : qkv) {
    if (size >= int64_t{1} << 31) return Status::Error("WindowAttention: a size of qkv is over 2147483647");
  }
  const cuda::Need need = KernelNeed(a, t.dtype, qkv[3]);
  const int64_t queries = a.window.y * a.window.x;
  cuda::Tile tile;
  Status status = cuda::ChooseTile(need, wished, queries, a.kv_window.y * a.kv_window.x, &tile);
  if (!status.ok()) return status;
  const auto [y, x] = MakeExtents(a, qkv);
  const bool roll_first = a.pad == Pad::kAfterRoll;
  const int64_t rolled_y = roll_first ? y.size : y.padded;
  const int64_t rolled_x = roll_first ? x.size : x.padded;
  const bool has_mask = a.mask == Mask::kRegion && (a.shift.y != 0 || a.shift.x != 0);

  cuda::Arguments arguments;
  arguments.Add("qkv", t.qkv);
  arguments.Add("bias", t.bias);
  arguments.Add("head_scale", t.head_scale);
  arguments.Add("pad_value", t.pad_value);
  arguments.Add("the output", t.output);
  for (const int64_t value : {y.size, x.size, y.padded, x.padded, rolled_y, rolled_x, y.shift % rolled_y,
                              x.shift % rolled_x, y.shift, x.shift, a.num_heads, a.head_size, need.value_size,
                              a.window.y, a.window.x, a.kv_window.y, a.kv_window.x}) {
    arguments.Add(Int(value));
  }
  arguments.Add((t.bias != nullptr ? kHasBias : 0) | (t.head_scale != nullptr ? kHasScale : 0) |
                (t.pad_value != nullptr ? kHasPad : 0) | (has_mask ? kHasMask : 0));
  arguments.Add(a.scale);
  arguments.Add(a.mask_value);
  const int64_t blocks = (queries + tile.queries - 1) / tile.queries;
  return cuda::Launch(need, tile, qkv[0] * y.windows * x.windows * blocks * a.num_heads, std::move(arguments), stream);
}

}  // namespace edgetx::window_attention
