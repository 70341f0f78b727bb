// Working memory that outlives a call, so that a kernel finds it warm in the cache.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace edgetx {

// Blocks aligned to a cache line. There are as many as there were threads at once; each is as large as its
// largest user needed. Thread-safe.
class ScratchPool {
 public:
  static constexpr std::align_val_t kAlignment{64};

  class Lease {
   public:
    // Throws std::bad_alloc.
    Lease(ScratchPool& pool, size_t bytes) : pool_(pool), block_(pool.Take()) {
      if (block_.bytes < bytes) block_ = Block(bytes);
    }
    ~Lease() { pool_.GiveBack(std::move(block_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    std::byte* data() const { return block_.data.get(); }

   private:
    friend class ScratchPool;
    struct Free {
      void operator()(std::byte* data) const { ::operator delete[](data, kAlignment); }
    };
    struct Block {
      Block() = default;
      explicit Block(size_t count) : data(new (kAlignment) std::byte[count]), bytes(count) {}
      std::unique_ptr<std::byte[], Free> data;
      size_t bytes = 0;
    };

    ScratchPool& pool_;
    Block block_;
  };

 private:
  Lease::Block Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (blocks_.empty()) {
      blocks_.reserve(++leased_);
      return {};
    }
    Lease::Block block = std::move(blocks_.back());
    blocks_.pop_back();
    return block;
  }
  // `Take` reserved the room, so this cannot throw.
  void GiveBack(Lease::Block block) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_.push_back(std::move(block));
  }

  std::mutex mutex_;
  std::vector<Lease::Block> blocks_;
  size_t leased_ = 0;
};

}  // namespace edgetx
