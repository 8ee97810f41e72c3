// ArkVale in the engine: digests and queries have one basis, with and without an online rotation of
// keys and queries (R3), and readers of a shared cache attend to what its owner's query chose.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "core/base/error.h"
#include "engine/model/engine.h"
#include "kernels/kv_page.h"
#include "tests/support/files.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar {
namespace {

constexpr int64_t kPage = 4;
constexpr int64_t kHeads = 2, kQueryHeads = 4, kDim = 8;  // of small_decoder()

std::shared_ptr<const Policy> policy_of(const ModelSpec& spec, const std::string& digest,
                                        int64_t budget) {
  PolicyOptions options;
  options.name = "arkvale";
  options.page_rows = kPage;
  options.budget = budget;
  options.digest = digest;
  return make_policy(options, kv_groups(spec));
}

struct Seen {
  std::vector<float> keys;       // of the first page's rows, [rows, heads, dim]
  std::vector<double> products;  // max q·k of each page, mean over query heads, from the keys
  std::vector<float> scores;     // what the digests say
};

// A prompt under way: its newest query and all of its pages.
Seen read_prompt(const ModelData& model) {
  EngineOptions options;
  options.threads = 1;
  Engine engine(model, options);
  const CacheOptions cache{CodecKind::kF32, CodecKind::kF32, kPage};
  const auto sequence = engine.start(cache, policy_of(model.spec, "cuboid_max", 24));
  const auto tokens = test::random_tokens(61, model.spec.vocab_size, 3);
  const StepItem item{sequence.get(), tokens, false, nullptr};
  engine.feed(std::span(&item, 1));
  const PageRecall& recall = *sequence->cache().lanes()[1]->recall();
  const auto q = recall.query();
  EXPECT_EQ(std::ssize(q), kQueryHeads * kDim);
  Seen seen;
  recall.score(q, nullptr, seen.scores);
  const KvPageShape shape{CodecKind::kF32, CodecKind::kF32, kHeads, kDim, kDim, false, kPage};
  for (int64_t page = 0; page < recall.pages(); ++page) {
    std::vector<float> keys(kPage * kHeads * kDim), values(keys.size());
    kv_page_decode(shape, recall.backup(page).copy().data(), 0, kPage, keys.data(), kHeads * kDim,
                   values.data(), kHeads * kDim);
    double sum = 0;
    for (int64_t h = 0; h < kQueryHeads; ++h) {
      double best = -1e300;
      for (int64_t r = 0; r < kPage; ++r) {
        double dot = 0;
        for (int64_t i = 0; i < kDim; ++i) {
          const int64_t key = (r * kHeads + h / (kQueryHeads / kHeads)) * kDim + i;
          dot += static_cast<double>(q[static_cast<size_t>(h * kDim + i)]) *
                 static_cast<double>(keys[static_cast<size_t>(key)]);
        }
        best = std::max(best, dot);
      }
      sum += best;
    }
    seen.products.push_back(sum / kQueryHeads);
    if (page == 0) seen.keys = keys;
  }
  return seen;
}

TEST(ArkvaleEngine, DigestsAndQueriesHaveOneBasis) {
  ModelData model = test::random_model(test::small_decoder(), 61);
  const Seen plain = read_prompt(model);
  model.rotation.stacks.resize(1);
  model.rotation.stacks[0].keys = true;
  const Seen turned = read_prompt(model);
  ASSERT_EQ(plain.products.size(), 15u);  // 62 rows with the marker
  ASSERT_EQ(turned.products.size(), 15u);
  double moved = 0;
  for (size_t i = 0; i < plain.keys.size(); ++i) {
    moved = std::max(moved, std::abs(static_cast<double>(plain.keys[i] - turned.keys[i])));
  }
  EXPECT_GT(moved, 0.1) << "keys are stored rotated";
  for (size_t page = 0; page < plain.products.size(); ++page) {
    // fp32 through four layers; products are of size 1.
    EXPECT_NEAR(plain.products[page], turned.products[page], 1e-3) << page;
    for (const Seen* seen : {&plain, &turned}) {
      EXPECT_GE(static_cast<double>(seen->scores[page]), seen->products[page] - 1e-4) << page;
    }
  }
}

TEST(ArkvaleEngine, RowsWithinTheBudgetAreAllThatAnybodyReads) {
  const ModelData model = test::random_model(test::small_decoder("cla2"), 62);
  EngineOptions options;
  Engine engine(model, options);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ8, kPage};
  const auto sequence = engine.start(cache, policy_of(model.spec, "", 24));
  const auto tokens = test::random_tokens(150, model.spec.vocab_size, 4);
  const StepItem prompt{sequence.get(), std::span(tokens).first(90), true, nullptr};
  engine.feed(std::span(&prompt, 1));
  int64_t changes = 0;
  std::vector<int32_t> before;
  for (size_t t = 90; t < tokens.size(); ++t) {
    const StepItem step{sequence.get(), std::span(tokens).subspan(t, 1), true, nullptr};
    engine.feed(std::span(&step, 1));
    const auto now = sequence->cache().lanes()[0]->recall()->resident();
    changes += std::ranges::equal(now, before) ? 0 : 1;
    before.assign(now.begin(), now.end());
    ASSERT_LE(sequence->cache().rows(0, 0), 24);
    ASSERT_EQ(sequence->cache().unplanned_pages(), 0);
  }
  EXPECT_GT(changes, 15);
  // 37 filled pages of 160 bytes in each group, six or less of them resident beside raw rows.
  EXPECT_EQ(sequence->backup_bytes(), 2 * 37 * 160);
  EXPECT_LE(sequence->cache().bytes().pages, 2 * (6 * 160 + 4 * 4 * 32));
}

// Copies in the file are the same copies: the same choices and logits, bit for bit.
// Resident pages that attention reads where their copies lie.
int64_t lent_pages(const Sequence& sequence) {
  int64_t lent = 0;
  for (const Lane* lane : sequence.cache().lanes()) {
    if (lane->recall() == nullptr) continue;
    const KvHeadView view = lane->view(0, lane->everything());
    const std::span<const int32_t> resident = lane->recall()->resident();
    for (size_t i = 0; i < resident.size(); ++i) {
      const std::byte* const copy = lane->recall()->backup(resident[i]).in_place();
      lent += copy != nullptr && view.runs[0].pages[i] == copy;
    }
  }
  return lent;
}

TEST(ArkvaleEngine, WhereTheBackupLiesChangesNothing) {
  const ModelData model = test::random_model(test::small_decoder("cla2"), 62);
  const auto tokens = test::random_tokens(150, model.spec.vocab_size, 4);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ8, kPage};
  const auto read = [&](const BackupOptions& backups, int64_t file_bytes) {
    EngineOptions options;
    options.backups = backups;
    Engine engine(model, options);
    const auto sequence = engine.start(cache, policy_of(model.spec, "", 24));
    std::vector<float> logits;
    for (size_t t = 0; t < tokens.size(); t += t == 0 ? 90 : 1) {
      const StepItem step{sequence.get(), std::span(tokens).subspan(t, t == 0 ? 90 : 1)};
      engine.feed(std::span(&step, 1));
      engine.backups().settle();
      const auto last = engine.logits(*sequence);
      logits.insert(logits.end(), last.begin(), last.end());
    }
    EXPECT_EQ(engine.backups().file_bytes(), file_bytes);
    // Copies that stay in memory are lent.
    EXPECT_EQ(lent_pages(*sequence) > 0, backups.memory < 0);
    return std::pair(logits, engine.image(*sequence));
  };
  const int64_t all = 2 * 37 * 160;
  const auto expected = read({}, 0);
  EXPECT_EQ(read({.memory = 0}, all), expected);
  EXPECT_EQ(read({.memory = 1000}, all - 960), expected);
}

// The file that holds the copies cannot be read any more: who recalls one is told, and the text
// that cannot go on gives back every page it had, once.
TEST(ArkvaleEngine, ACopyThatCannotBeReadIsToldAndNoPageIsLost) {
  const ModelData model = test::random_model(test::small_decoder("cla2"), 62);
  const auto tokens = test::random_tokens(150, model.spec.vocab_size, 4);
  const CacheOptions cache{CodecKind::kQ4, CodecKind::kQ8, kPage};
  // Some of these prompts end where the next row chooses fewer pages than there are.
  for (size_t length = 88; length < 96; ++length) {
    const test::TempDir folder;
    EngineOptions options;
    options.threads = length % 2 == 0 ? 1 : 2;
    options.backups = {.memory = 0, .folder = folder.path().string()};
    Engine engine(model, options);
    const int64_t weights = engine.memory().bytes_in_use();
    auto sequence = engine.start(cache, policy_of(model.spec, "", 24));
    const StepItem prompt{sequence.get(), std::span(tokens).first(length)};
    engine.feed(std::span(&prompt, 1));
    engine.backups().settle();
    // It has no name, but this process has it open: in its place comes what can be written only.
    const int blind = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    ASSERT_GE(blind, 0);
    int found = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
      if (!target.starts_with(folder.path().string())) continue;
      ASSERT_GE(::dup2(blind, std::stoi(entry.path().filename())), 0);
      ++found;
    }
    ::close(blind);
    ASSERT_EQ(found, 1);
    test::expect_error(ErrorCode::kIo, {folder.path().string(), "cannot be read back", "Bad file"},
                       [&] {
                         for (size_t t = length; t < tokens.size(); ++t) {
                           const StepItem step{sequence.get(), std::span(tokens).subspan(t, 1)};
                           engine.feed(std::span(&step, 1));
                         }
                       });
    sequence.reset();
    EXPECT_EQ(engine.memory().bytes_in_use(), weights);
    // Nobody else has lost anything.
    const auto other = engine.start(cache, nullptr);
    const StepItem fresh{other.get(), std::span(tokens).first(90)};
    engine.feed(std::span(&fresh, 1));
    EXPECT_EQ(other->length(), 91);
  }
}

// With a shared cache the owner's query alone chooses: that of group 0's owner, the first layer,
// is the same whatever the reader's weights are.
TEST(ArkvaleEngine, ReadersUseWhatTheOwnerChose) {
  ModelData model = test::random_model(test::small_decoder("cla2"), 62);
  const auto tokens = test::random_tokens(150, model.spec.vocab_size, 4);
  const auto chosen = [&] {
    Engine engine(model, {});
    const CacheOptions cache{CodecKind::kF32, CodecKind::kF32, kPage};
    const auto sequence = engine.start(cache, policy_of(model.spec, "cuboid_max:2", 24));
    std::vector<std::vector<int32_t>> out;
    for (size_t t = 0; t < tokens.size(); t += t == 0 ? 90 : 1) {
      const StepItem step{sequence.get(), std::span(tokens).subspan(t, t == 0 ? 90 : 1)};
      engine.feed(std::span(&step, 1));
      const auto now = sequence->cache().lanes()[0]->recall()->resident();
      out.emplace_back(now.begin(), now.end());
    }
    return out;
  };
  const auto before = chosen();
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  ASSERT_TRUE(model.tensors.contains(name));
  model.tensors[name] = test::random_model(model.spec, 63).tensors[name];
  EXPECT_EQ(chosen(), before);
  const std::string owner = "model.layers.0.self_attn.q_proj.weight";
  model.tensors[owner] = test::random_model(model.spec, 63).tensors[owner];
  EXPECT_NE(chosen(), before);
}

}  // namespace
}  // namespace ashlar
