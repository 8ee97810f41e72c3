#include "train/checkpoint/together.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <vector>

#include "core/base/error.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

// One rank's share; what is wrong, or nothing.
std::optional<std::string> look(const fs::path& folder, int64_t rank, int64_t world) {
  try {
    return verify_files(verify_checkpoint(folder, Verify::kSizes), folder, rank, world);
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

SharedVerifier::SharedVerifier(int64_t rank, int64_t world, KeyValueStore& store,
                               std::chrono::milliseconds timeout)
    : rank_(rank), world_(world), store_(store), timeout_(timeout) {
  ASHLAR_CHECK(world >= 1 && rank >= 0 && rank < world);
}

// Rank 0 gathers what the others found and tells them: {"trouble": …}, or {"silent": …} when the
// answer is that there is none.
std::string SharedVerifier::collect(const std::string& key, std::optional<std::string> own,
                                    const fs::path& folder) {
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  std::vector<int64_t> silent;
  for (int64_t r = 1; r < world_; ++r) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    const std::string from = fmt::format("{}/rank/{}", key, r);
    const auto text = store_.wait(from, std::max(left, std::chrono::milliseconds(0)));
    if (!text) {
      silent.push_back(r);
      continue;
    }
    store_.erase(from);
    if (!own && !text->empty()) own = fmt::format("rank {}: {}", r, *text);
  }
  Node verdict = Node::map();
  if (own) verdict.set("trouble", *own);
  if (!silent.empty()) {
    verdict.set("silent",
                fmt::format("rank {} did not finish its share of verifying {} within {:.0f} s",
                            fmt::join(silent, ", "), folder.string(),
                            std::chrono::duration<double>(timeout_).count()));
  }
  const std::string text = write_json(verdict);
  store_.set(key + "/verdict", text);
  return text;
}

std::string SharedVerifier::hear(const std::string& key) {
  const auto text = store_.wait(key, 2 * timeout_);
  require(text.has_value(), ErrorCode::kIo,
          "rank 0 did not say within {:.0f} s which checkpoint to take",
          std::chrono::duration<double>(2 * timeout_).count());
  return *text;
}

std::optional<std::string> SharedVerifier::trouble(const fs::path& folder) {
  const std::string key = fmt::format("verify/{}", questions_++);
  std::optional<std::string> own = look(folder, rank_, world_);
  if (world_ == 1) return own;
  std::string text;
  if (rank_ == 0) {
    text = collect(key, std::move(own), folder);
  } else {
    store_.set(fmt::format("{}/rank/{}", key, rank_), own.value_or(""));
    text = hear(key + "/verdict");
  }
  const Node verdict = parse_json(text, key);
  if (const Node* silent = verdict.find("silent")) throw Error(ErrorCode::kIo, silent->as_string());
  const Node* found = verdict.find("trouble");
  return found == nullptr ? std::nullopt : std::optional(found->as_string());
}

void SharedVerifier::verify(const fs::path& checkpoint) {
  const std::optional<std::string> found = trouble(checkpoint);
  if (found) throw Error(ErrorCode::kData, *found);
}

std::optional<fs::path> SharedVerifier::newest(const fs::path& run) {
  // The list is rank 0's: what is listed may change while others look.
  const std::string key = fmt::format("verify/{}/candidates", questions_++);
  std::vector<fs::path> candidates;
  if (rank_ == 0) {
    candidates = checkpoint_candidates(run);
    Node names = Node::list();
    for (const fs::path& path : candidates) {
      names.push(path.lexically_relative(run).string());
    }
    if (world_ > 1) store_.set(key, write_json(names));
  } else {
    const Node names = parse_json(hear(key), key);
    for (const Node& name : names.as_list()) {
      candidates.push_back(run / name.as_string());
    }
  }
  for (const fs::path& folder : candidates) {
    const std::optional<std::string> found = trouble(folder);
    if (!found) return folder;
    if (rank_ == 0) spdlog::warn("passing over a checkpoint: {}", *found);
  }
  return std::nullopt;
}

}  // namespace ashlar
