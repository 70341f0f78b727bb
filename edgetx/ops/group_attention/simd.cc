// The vector code of GroupAttention, compiled once per instruction set.
//
// One item is a head of a chunk of queries. Queries, keys and values are gathered by token and the results go
// straight to the tokens that take them, so that no grouped tensor exists; native/attention-inl.h does the rest.

#include "edgetx/ops/native/simd_targets.h"  // before Highway

#include "edgetx/ops/group_attention/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "edgetx/ops/group_attention/simd.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include "edgetx/ops/native/attention-inl.h"
#include "edgetx/ops/native/simd_select.h"

HWY_BEFORE_NAMESPACE();
namespace edgetx::group_attention {
namespace HWY_NAMESPACE {

using namespace edgetx::rows::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace)

template <class T, Activation kActivation>
class Worker {
 public:
  Worker(const Plan& plan, std::byte* scratch)
      : plan_(plan),
        heads_(static_cast<size_t>(plan.attributes.num_heads)),
        d_(static_cast<size_t>(plan.head_size)),
        dv_(static_cast<size_t>(plan.value_size)),
        keys_(reinterpret_cast<int32_t*>(scratch + plan.layout.keys)),
        rows_(reinterpret_cast<T**>(scratch + plan.layout.rows)),
        head_(plan.layout.head, scratch + plan.layout.head_memory) {}

  void Run(int64_t begin, int64_t end) {
    const auto heads = static_cast<int64_t>(heads_);
    int64_t group = -1;
    for (int64_t item = begin; item < end; ++item) {
      const Chunk& chunk = plan_.chunks[static_cast<size_t>(item / heads)];
      if (chunk.group != group) ListKeys(chunk.group);
      group = chunk.group;
      Attend(chunk, static_cast<size_t>(item % heads));
    }
  }

 private:
  // At least one: the slot of a query is not empty.
  void ListKeys(int64_t group) {
    count_ = 0;
    const int32_t* tokens = plan_.tensors.groups + group * plan_.slots;
    for (int64_t s = 0; s < plan_.slots; ++s) {
      keys_[count_] = tokens[s];
      count_ += tokens[s] >= 0;
    }
  }

  void Attend(const Chunk& chunk, size_t head) {
    const Query* queries = plan_.queries.data() + chunk.begin;
    const size_t count = chunk.end - chunk.begin;
    const float scale = plan_.attributes.scale;
    head_.template SetQueries<false>(count, scale, [&](size_t i, float factor, float* to) {
      CopyRow(Row(plan_.tensors.q, queries[i].token, head, d_), d_, factor, to);
    });
    head_.template SetKeys<false>(
        count_, [&](size_t j, float* buffer) { return Key(Row(plan_.tensors.k, keys_[j], head, d_), buffer); });
    head_.SetValues([&](size_t j, float factor, float* to) {
      CopyRow(Row(plan_.tensors.v, keys_[j], head, dv_), dv_, factor, to);
    });
    T* output = static_cast<T*>(plan_.tensors.output);
    for (size_t i = 0; i < count; ++i) {
      rows_[i] = output + (static_cast<size_t>(queries[i].output) * heads_ + head) * dv_;
    }
    head_.Attend(attention::Addends(), rows_, [](size_t, size_t) {});
  }

  // A head's part of a token's row.
  const T* Row(const void* tensor, int32_t token, size_t head, size_t size) const {
    return static_cast<const T*>(tensor) + (static_cast<size_t>(token) * heads_ + head) * size;
  }

  const float* Key(const T* row, float* buffer) const { return attention::HWY_NAMESPACE::Readable(row, d_, buffer); }

  const Plan& plan_;
  const size_t heads_, d_, dv_;
  int32_t* const keys_;
  T** const rows_;
  attention::HWY_NAMESPACE::Head<kActivation> head_;
  size_t count_ = 0;
};

template <class T>
void RunAs(const Plan& plan, int64_t begin, int64_t end, std::byte* scratch) {
  if (plan.attributes.activation == Activation::kSoftmax) {
    Worker<T, Activation::kSoftmax>(plan, scratch).Run(begin, end);
  } else {
    Worker<T, Activation::kRelu2>(plan, scratch).Run(begin, end);
  }
}

void Run(const Plan& plan, int64_t begin, int64_t end, std::byte* scratch) {
  switch (plan.tensors.dtype) {
    case DType::kFloat32:
      return RunAs<float>(plan, begin, end, scratch);
    case DType::kFloat16:
      return RunAs<hwy::float16_t>(plan, begin, end, scratch);
    case DType::kBFloat16:
      return RunAs<hwy::bfloat16_t>(plan, begin, end, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace edgetx::group_attention
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace edgetx::group_attention {

EDGETX_DEFINE_SELECT_RUN()

}  // namespace edgetx::group_attention
#endif
