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
        query_rows_(reinterpret_cast<const T**>(scratch + plan.layout.query_rows)),
        key_rows_(reinterpret_cast<const T**>(scratch + plan.layout.key_rows)),
        value_rows_(reinterpret_cast<const T**>(scratch + plan.layout.value_rows)),
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
      if (tokens[s] < 0) continue;
      key_rows_[count_] = Row(plan_.tensors.k, tokens[s], d_);
      value_rows_[count_++] = Row(plan_.tensors.v, tokens[s], dv_);
    }
  }

  void Attend(const Chunk& chunk, size_t head) {
    const Query* queries = plan_.queries.data() + chunk.begin;
    const size_t count = chunk.end - chunk.begin;
    for (size_t i = 0; i < count; ++i) query_rows_[i] = Row(plan_.tensors.q, queries[i].token, d_);
    head_.template SetQueries<false>(query_rows_, head * d_, count, plan_.attributes.scale);
    head_.template SetKeys<false>(key_rows_, head * d_, count_);
    head_.SetValues(value_rows_, head * dv_);
    T* output = static_cast<T*>(plan_.tensors.output);
    for (size_t i = 0; i < count; ++i) {
      rows_[i] = output + (static_cast<size_t>(queries[i].output) * heads_ + head) * dv_;
    }
    head_.Attend(attention::Addends(), rows_, [](size_t, size_t) {});
  }

  const T* Row(const void* tensor, int32_t token, size_t size) const {
    return static_cast<const T*>(tensor) + static_cast<size_t>(token) * heads_ * size;
  }

  const Plan& plan_;
  const size_t heads_, d_, dv_;
  const T** const query_rows_;
  const T** const key_rows_;
  const T** const value_rows_;
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
