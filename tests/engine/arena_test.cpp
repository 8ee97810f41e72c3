// Arenas that give chunks back on request, beside a naive model of chunks and slots.

#include "engine/cache/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#include "engine/cache/page_pool.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

constexpr int64_t kChunk = Arena::kChunkBytes;

// What the descriptions of Arena say, looked up instead of kept.
struct NaiveChunk {
  int64_t page_bytes = 0, bytes = 0, slots = 0;
  bool retired = false;
  std::map<int32_t, std::pair<int32_t, std::byte>> live;  // slot: owners, what it is filled with
};

class Naive {
 public:
  explicit Naive(int64_t budget) : budget_(budget) {}

  std::map<int32_t, NaiveChunk> chunks;  // by index

  static NaiveChunk empty(int64_t page_bytes) {
    NaiveChunk chunk;
    chunk.page_bytes = page_bytes;
    const int64_t stride = round_up(page_bytes, 64);
    chunk.bytes = round_up(std::max(kChunk, stride), kChunk);
    chunk.slots = chunk.bytes / stride;
    return chunk;
  }
  bool open(int64_t page_bytes) const {
    return std::any_of(chunks.begin(), chunks.end(), [&](const auto& c) {
      return c.second.page_bytes == page_bytes && !c.second.retired &&
             std::ssize(c.second.live) < c.second.slots;
    });
  }
  bool has_room(int64_t page_bytes) const {
    return open(page_bytes) || provided() + empty(page_bytes).bytes <= budget_;
  }
  int64_t provided(bool only_retired = false) const {
    int64_t sum = 0;
    for (const auto& [index, chunk] : chunks) {
      if (chunk.retired || !only_retired) sum += chunk.bytes;
    }
    return sum;
  }
  void release(PageId page) {
    NaiveChunk& chunk = chunks.at(page.chunk);
    if (--chunk.live.at(page.slot).first > 0) return;
    chunk.live.erase(page.slot);
    if (chunk.live.empty()) chunks.erase(page.chunk);
  }
  // One after another, always the one with the least on it.
  int64_t retire_bytes(int64_t bytes) {
    int64_t coming = 0;
    while (coming < bytes) {
      std::pair<int64_t, NaiveChunk*> least = {INT64_MAX, nullptr};
      for (auto& [index, chunk] : chunks) {
        const int64_t live = std::ssize(chunk.live) * chunk.page_bytes;
        if (!chunk.retired && live < least.first) least = {live, &chunk};
      }
      if (least.second == nullptr) break;
      least.second->retired = true;
      coming += least.second->bytes;
    }
    return coming;
  }

 private:
  int64_t budget_;
};

class Beside {
 public:
  Beside(uint64_t seed, int64_t budget)
      : rng_(seed), naive_(budget), memory_(make_host_memory(budget)), arena_(*memory_) {}

  void run(int operations) {
    // Some pages fill a chunk of their own or more than one.
    const int64_t sizes[] = {100, 64 << 10, 200 << 10, 1 << 20, kChunk, kChunk + 1};
    for (int i = 0; i < operations; ++i) {
      SCOPED_TRACE(testing::Message() << "operation " << i);
      const int64_t kind = below(100);
      if (kind < 45) {
        ASSERT_NO_FATAL_FAILURE(allocate(sizes[below(6)]));
      } else if (kind < 55 && !pages_.empty()) {
        const PageId page = pages_[any()];
        arena_.retain(page);
        ++naive_.chunks.at(page.chunk).live.at(page.slot).first;
        pages_.push_back(page);
      } else if (kind < 95 && !pages_.empty()) {
        release(any());
      } else if (kind < 98) {
        retire_one();
      } else {
        const int64_t bytes = 1 + below(4 * kChunk);
        const int64_t before = naive_.provided(true);
        ASSERT_EQ(arena_.retire_bytes(bytes), naive_.retire_bytes(bytes));
        if (naive_.provided(true) < before + bytes) {
          ASSERT_EQ(naive_.provided(true), naive_.provided()) << "all that there is";
        }
      }
      ASSERT_NO_FATAL_FAILURE(compare());
    }
    while (!pages_.empty()) release(pages_.size() - 1);
    EXPECT_EQ(memory_->bytes_in_use(), 0);
    EXPECT_EQ(arena_.retired_bytes(), 0);
    EXPECT_GT(refused_, 10) << "the budget was never felt";
    EXPECT_GT(retired_, 10);
  }

 private:
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(rng_.below(draws_++, static_cast<uint64_t>(bound)));
  }
  size_t any() { return static_cast<size_t>(below(std::ssize(pages_))); }

  void allocate(int64_t bytes) {
    if (!naive_.has_room(bytes)) {
      test::expect_error(ErrorCode::kResource, {"exhausted"}, [&] { arena_.allocate(bytes); });
      ++refused_;
      return;
    }
    const bool was_open = naive_.open(bytes);
    const PageId page = arena_.allocate(bytes);
    const bool known = naive_.chunks.contains(page.chunk);
    ASSERT_EQ(known, was_open) << "a chunk is taken only where none is open";
    if (!known) naive_.chunks[page.chunk] = Naive::empty(bytes);
    NaiveChunk& chunk = naive_.chunks[page.chunk];
    ASSERT_FALSE(chunk.retired);
    ASSERT_EQ(chunk.page_bytes, bytes);
    ASSERT_TRUE(page.slot >= 0 && page.slot < chunk.slots && !chunk.live.contains(page.slot));
    const auto fill = static_cast<std::byte>(below(256));
    chunk.live[page.slot] = {1, fill};
    std::memset(arena_.writable(page), static_cast<int>(fill), static_cast<size_t>(bytes));
    pages_.push_back(page);
  }

  void release(size_t i) {
    const PageId page = pages_[i];
    const std::byte fill = naive_.chunks.at(page.chunk).live.at(page.slot).second;
    const std::byte* at = arena_.address(page);
    const int64_t bytes = arena_.bytes(page);
    ASSERT_TRUE(at[0] == fill && at[bytes / 2] == fill && at[bytes - 1] == fill);
    arena_.release(page);
    naive_.release(page);
    pages_.erase(pages_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  // A chunk that may be retired already, or not be at all.
  void retire_one() {
    const auto index = static_cast<int32_t>(below(12));
    const auto found = naive_.chunks.find(index);
    if (found == naive_.chunks.end() || found->second.retired) {
      test::expect_error(ErrorCode::kInternal, {}, [&] { arena_.retire(index); });
      return;
    }
    arena_.retire(index);
    found->second.retired = true;
    ++retired_;
  }

  void compare() {
    int64_t live = 0, owned = 0, bytes = 0;
    for (const auto& [index, chunk] : naive_.chunks) {
      ASSERT_EQ(arena_.retired(index), chunk.retired);
      for (const auto& [slot, page] : chunk.live) {
        ASSERT_EQ(arena_.owners({index, slot}), page.first);
        ++live;
        owned += page.first * chunk.page_bytes;
        bytes += chunk.page_bytes;
      }
    }
    ASSERT_EQ(arena_.pages_in_use(), live);
    ASSERT_EQ(arena_.page_bytes_in_use(), bytes);
    ASSERT_EQ(arena_.owned_bytes(), owned);
    ASSERT_EQ(arena_.chunk_bytes_in_use(), naive_.provided());
    ASSERT_EQ(arena_.retired_bytes(), naive_.provided(true));
    ASSERT_EQ(memory_->bytes_in_use(), naive_.provided());
  }

  Philox rng_;
  uint64_t draws_ = 0;
  Naive naive_;
  std::unique_ptr<MemoryProvider> memory_;
  Arena arena_;
  std::vector<PageId> pages_;  // once for each owner
  int refused_ = 0, retired_ = 0;
};

TEST(Retiring, AgreesWithANaiveModelUnderABudget) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Beside beside(seed, static_cast<int64_t>(6 + seed) * kChunk);
    ASSERT_NO_FATAL_FAILURE(beside.run(3000));
  }
}

TEST(Retiring, AChunkGoesWithItsLastPage) {
  const auto memory = make_host_memory(2 * kChunk);
  Arena arena(*memory);
  const PageId one = arena.allocate(1000), two = arena.allocate(1000);
  ASSERT_EQ(one.chunk, two.chunk);
  arena.retire(one.chunk);
  EXPECT_TRUE(arena.retired(one.chunk));
  EXPECT_EQ(arena.retired_bytes(), kChunk);
  arena.retain(one);  // its pages can still find owners
  const PageId other = arena.allocate(1000);
  EXPECT_NE(other.chunk, one.chunk);
  EXPECT_FALSE(arena.retired(other.chunk));
  EXPECT_EQ(memory->bytes_in_use(), 2 * kChunk);
  arena.retire(other.chunk);
  test::expect_error(ErrorCode::kResource, {"exhausted"}, [&] { arena.allocate(1000); });
  arena.release(one);
  arena.release(two);
  EXPECT_EQ(memory->bytes_in_use(), 2 * kChunk);
  arena.release(one);
  EXPECT_EQ(memory->bytes_in_use(), kChunk);
  // The index serves again, for a chunk that is not retired.
  const PageId again = arena.allocate(500);
  EXPECT_EQ(again.chunk, one.chunk);
  EXPECT_FALSE(arena.retired(again.chunk));
  arena.release(other);
  arena.release(again);
  EXPECT_EQ(memory->bytes_in_use(), 0);
}

TEST(Retiring, MisuseIsSaid) {
  const auto memory = make_host_memory();
  Arena arena(*memory);
  const auto refuses = [&](const auto& call) {
    test::expect_error(ErrorCode::kInternal, {}, call);
  };
  refuses([&] { arena.retire(0); });
  const PageId page = arena.allocate(100);
  for (const int32_t index : {-1, 1}) {
    refuses([&] { arena.retire(index); });
    refuses([&] { (void)arena.retired(index); });
  }
  for (const int64_t bytes : {int64_t{0}, int64_t{-1}}) {
    refuses([&] { arena.retire_bytes(bytes); });
  }
  arena.retire(page.chunk);
  refuses([&] { arena.retire(page.chunk); });
  EXPECT_EQ(arena.retire_bytes(1), 0) << "there is no other";
  arena.release(page);
  refuses([&] { arena.retire(page.chunk); });
  EXPECT_EQ(memory->bytes_in_use(), 0);
}

// What a step may need has been put aside: retiring its chunks takes nothing from it.
TEST(Retiring, ReservesAreKept) {
  const auto memory = make_host_memory(kChunk);
  Arena arena(*memory);
  PagePool pool(arena);
  pool.reserve(1000, 5);
  EXPECT_EQ(arena.retire_bytes(1), kChunk);
  std::vector<PageId> pages;
  for (int i = 0; i < 5; ++i) pages.push_back(pool.take(1000));
  EXPECT_EQ(pool.unplanned(), 0);
  // Within the step a page that comes back serves again.
  pool.give(pages.back());
  pages.back() = pool.take(1000);
  EXPECT_EQ(pool.unplanned(), 0);
  test::expect_error(ErrorCode::kResource, {"exhausted"}, [&] { pool.take(1000); });
  for (int i = 0; i < 4; ++i) pool.give(pages[static_cast<size_t>(i)]);
  pool.release_reserve();
  EXPECT_EQ(arena.pages_in_use(), 1);
  EXPECT_EQ(memory->bytes_in_use(), kChunk);
  pool.give(pages.back());
  EXPECT_EQ(memory->bytes_in_use(), 0);
}

// Pages that lie elsewhere count as pages of the sequences that hold them and take no memory.
TEST(Lending, PagesLieWhereTheyAre) {
  const auto memory = make_host_memory();
  Arena arena(*memory);
  PagePool one(arena), other(arena);
  const std::vector<std::byte> first(640, std::byte{1}), second(128, std::byte{2});
  const PageId a = one.lend(first.data(), 640), b = one.lend(second.data(), 128);
  EXPECT_TRUE(a && arena.lent(a) && arena.lent(b) && !(a == b));
  EXPECT_EQ(arena.address(a), first.data());
  EXPECT_EQ(arena.address(b), second.data());
  other.share(a);
  EXPECT_EQ(arena.owners(a), 2);
  EXPECT_EQ(one.bytes(), 768);
  EXPECT_EQ(other.bytes(), 640);
  EXPECT_EQ(arena.owned_bytes(), 768 + 640);
  EXPECT_EQ(arena.page_bytes_in_use(), 768);
  EXPECT_EQ(arena.pages_in_use(), 2);
  EXPECT_EQ(memory->bytes_in_use(), 0);
  // Whoever wants to write gets a copy, even as the only owner.
  test::expect_error(ErrorCode::kInternal, {}, [&] { arena.writable(b); });
  const PageId own = one.own(b);
  EXPECT_FALSE(arena.lent(own));
  EXPECT_EQ(std::memcmp(arena.writable(own), second.data(), 128), 0);
  EXPECT_EQ(one.bytes(), 768);
  EXPECT_EQ(memory->bytes_in_use(), kChunk);
  // A lent page given back in a step is no reserve; its name serves the next one.
  one.reserve(640, 0);
  one.give(a);
  EXPECT_EQ(arena.owners(a), 1);
  other.give(a);
  one.release_reserve();
  const PageId again = other.lend(second.data(), 128);
  EXPECT_TRUE(again == a || again == b);
  other.give(again);
  test::expect_error(ErrorCode::kInternal, {}, [&] { arena.address(again); });
  one.give(own);
  EXPECT_EQ(arena.pages_in_use(), 0);
  EXPECT_EQ(arena.owned_bytes(), 0);
  EXPECT_EQ(memory->bytes_in_use(), 0);
}

}  // namespace
}  // namespace ashlar
