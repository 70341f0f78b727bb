#include "edgetx/ops/group_attention/cuda.h"

#include <utility>

namespace edgetx::group_attention {
namespace {

constexpr int64_t kBlockTokens = 256;  // BLOCK_TOKENS of triton_kernel.py

// The largest count that the kernels' 32-bit indices reach.
constexpr int64_t kMost = (int64_t{1} << 31) - 1;

size_t SlotBytes(int64_t groups, int64_t slots) {
  // A multiple of 16, so that what follows is as aligned as what precedes.
  return static_cast<size_t>((groups * slots * 4 + 15) / 16 * 16);
}

}  // namespace

cuda::Need KernelNeed(const Attributes& a, DType dtype, int64_t q_channels, int64_t v_channels) {
  cuda::Need need;
  need.kernel = "group_attention_kernel";
  need.dtype = cuda::CodeOf(dtype);
  need.head_size = q_channels / a.num_heads;
  need.value_size = v_channels / a.num_heads;
  need.variant = a.activation == Activation::kRelu2 ? 1 : 0;
  return need;
}

size_t WorkspaceBytes(int64_t tokens, int64_t groups, int64_t slots) {
  return SlotBytes(groups, slots) + static_cast<size_t>(tokens) * 4;
}

Status Launch(const Attributes& a, const Shapes& shapes, const GpuTensors& t, int32_t wished, cuda::Stream stream) {
  const int64_t tokens = shapes.q[0];
  const int64_t groups = shapes.groups[0];
  const int64_t slots = shapes.groups[1];
  if (tokens > kMost || groups * slots > kMost) {
    return Status::Error("GroupAttention: more than 2147483647 tokens or slots");
  }
  // What no slot serves is zero.
  const size_t out_bytes = static_cast<size_t>(tokens * shapes.v[1]) * SizeOf(t.dtype);
  if (Status status = cuda::Fill8(t.output, 0, out_bytes, stream); !status.ok()) return status;
  if (tokens == 0 || groups == 0) return {};
  const cuda::Need need = KernelNeed(a, t.dtype, shapes.q[1], shapes.v[1]);
  cuda::Tile tile;
  if (Status status = cuda::ChooseTile(need, wished, slots, slots, &tile); !status.ok()) return status;

  void* first = t.workspace;
  void* following = static_cast<char*>(t.workspace) + SlotBytes(groups, slots);
  Status status = cuda::Fill32(first, 0xffffffffu, WorkspaceBytes(tokens, groups, slots) / 4, stream);
  if (!status.ok()) return status;
  cuda::Arguments chain;
  chain.Add("inverse", t.inverse);
  chain.Add("the workspace", first);
  chain.Add("the workspace", following);
  chain.Add(static_cast<int32_t>(tokens));
  cuda::Need chain_need;
  chain_need.kernel = "chain_kernel";
  status = cuda::Launch(chain_need, {}, (tokens + kBlockTokens - 1) / kBlockTokens, std::move(chain), stream);
  if (!status.ok()) return status;

  cuda::Arguments arguments;
  arguments.Add("q", t.q);
  arguments.Add("k", t.k);
  arguments.Add("v", t.v);
  arguments.Add("groups", t.groups);
  arguments.Add("the workspace", first);
  arguments.Add("the workspace", following);
  arguments.Add("the output", t.output);
  for (const int64_t value : {slots, a.num_heads, need.head_size, need.value_size}) {
    arguments.Add(static_cast<int32_t>(value));
  }
  arguments.Add(a.scale);
  const int64_t blocks = (slots + tile.queries - 1) / tile.queries;
  return cuda::Launch(need, tile, groups * blocks * a.num_heads, std::move(arguments), stream);
}

}  // namespace edgetx::group_attention
