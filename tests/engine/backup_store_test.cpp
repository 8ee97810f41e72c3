// Copies of pages in memory and in the file: the same bytes come back from both, limits hold,
// nothing stays behind, and a file that cannot be written is told before the next step.

#include "engine/cache/backup_store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "engine/cache/spill_file.h"
#include "tests/support/files.h"

namespace ashlar {
namespace {

std::vector<std::byte> page_of(uint64_t seed, size_t bytes) {
  std::vector<std::byte> page(bytes);
  for (size_t i = 0; i < bytes; ++i) page[i] = static_cast<std::byte>(Philox(seed).bits(i));
  return page;
}

TEST(BackupStore, WithoutALimitEverythingStaysInMemory) {
  BackupStore store;
  const auto page = store.add(page_of(1, 1000));
  store.settle();
  EXPECT_EQ(store.memory_bytes(), 1000);
  EXPECT_EQ(store.file_bytes(), 0);
  EXPECT_EQ(page->copy(), page_of(1, 1000));
  // So it can be read in place, as attention reads pages; with a limit it could leave.
  ASSERT_NE(page->in_place(), nullptr);
  EXPECT_EQ(std::memcmp(page->in_place(), page_of(1, 1000).data(), 1000), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(page->in_place()) % 64, 0u);
  BackupStore limited({.memory = 1 << 20});
  EXPECT_EQ(limited.add(page_of(1, 1000))->in_place(), nullptr);
}

TEST(BackupStore, BeyondTheLimitTheOldestLieInTheFile) {
  BackupStore store({.memory = 2500});
  std::vector<std::shared_ptr<const BackupPage>> pages;
  for (uint64_t i = 0; i < 10; ++i) pages.push_back(store.add(page_of(i, 1000)));
  store.settle();
  EXPECT_EQ(store.memory_bytes(), 2000);
  EXPECT_EQ(store.file_bytes(), 8000);
  // The newest two are given back from memory, an old one from the file.
  pages.resize(8);
  pages.erase(pages.begin());
  EXPECT_EQ(store.memory_bytes(), 0);
  EXPECT_EQ(store.file_bytes(), 7000);
  for (size_t i = 0; i < pages.size(); ++i) {
    pages[i]->will_need();
    EXPECT_EQ(pages[i]->copy(), page_of(i + 1, 1000));
  }
  pages.clear();
  EXPECT_EQ(store.file_bytes(), 0);
}

// Against a list of what each holds: sizes, lifetimes and owners at random, read while it is
// written.
TEST(BackupStore, RandomPagesComeBackAsTheyWere) {
  for (const int64_t limit : {int64_t{0}, int64_t{3000}, int64_t{100000}}) {
    BackupStore store({.memory = limit});
    struct Held {
      uint64_t seed;
      size_t bytes;
      std::shared_ptr<const BackupPage> page;
    };
    std::vector<Held> held;
    const Philox rng(7);
    int64_t total = 0;
    for (uint64_t op = 0; op < 3000; ++op) {
      const uint64_t what = rng.below(3 * op, 5), at = rng.below(3 * op + 1, held.size() + 1);
      if (what < 3 || at == held.size()) {
        const size_t bytes = 64 * (1 + rng.below(3 * op + 2, 4));
        held.push_back({op, bytes, store.add(page_of(op, bytes))});
        total += static_cast<int64_t>(bytes);
      } else if (what == 3) {
        const Held& h = held[at];
        h.page->will_need();
        ASSERT_EQ(h.page->copy(), page_of(h.seed, h.bytes)) << "operation " << op;
      } else {
        total -= static_cast<int64_t>(held[at].bytes);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
      }
      if (op % 100 != 0) continue;
      store.settle();
      ASSERT_LE(store.memory_bytes(), limit);
      ASSERT_EQ(store.memory_bytes() + store.file_bytes(), total);
    }
    for (const Held& h : held) ASSERT_EQ(h.page->copy(), page_of(h.seed, h.bytes));
    store.check();
  }
}

TEST(BackupStore, PagesOutliveTheirStore) {
  std::shared_ptr<const BackupPage> in_file, in_memory;
  {
    BackupStore store({.memory = 100});
    in_file = store.add(page_of(1, 100));
    in_memory = store.add(page_of(2, 100));
    store.settle();
  }
  EXPECT_EQ(in_file->copy(), page_of(1, 100));
  EXPECT_EQ(in_memory->copy(), page_of(2, 100));
}

TEST(SpillFile, PlacesAreTakenAgainAndNothingHasAName) {
  const test::TempDir folder;
  SpillFile file(folder.path().string());
  const int64_t first = file.write(page_of(1, 128)), second = file.write(page_of(2, 64));
  EXPECT_EQ(file.bytes(), 192);
  file.give_back(first, 128);
  EXPECT_NE(file.write(page_of(3, 64)), first) << "a place is for blocks of its size";
  EXPECT_EQ(file.write(page_of(4, 128)), first);
  std::vector<std::byte> back(64);
  file.read(second, back);
  EXPECT_EQ(back, page_of(2, 64));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(BackupStore, AFolderThatIsNotThereIsNamed) {
  test::expect_error(ErrorCode::kIo, {"/no/such/folder", "No such file"},
                     [] { BackupStore({.memory = 0, .folder = "/no/such/folder"}); });
}

// The disk is full: what could not be written stays in memory, and the next step is refused.
TEST(BackupStore, AFullDiskLosesNothingAndIsTold) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  BackupStore store({.memory = 0});
  std::vector<std::shared_ptr<const BackupPage>> pages;
  for (uint64_t i = 0; i < 9; ++i) pages.push_back(store.add(page_of(i, 1000)));
  store.settle();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(store.file_bytes() + store.memory_bytes(), 9000);
  EXPECT_LE(store.file_bytes(), 4096);
  for (uint64_t i = 0; i < 9; ++i) EXPECT_EQ(pages[i]->copy(), page_of(i, 1000));
  test::expect_error(ErrorCode::kIo, {"cannot be written", "File too large"},
                     [&] { store.check(); });
}

}  // namespace
}  // namespace ashlar
