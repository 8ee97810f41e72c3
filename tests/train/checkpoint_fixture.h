#pragma once

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/files.h"
#include "tests/support/specs.h"
#include "train/checkpoint/saver.h"

namespace ashlar::test {

inline CheckpointManifest manifest_at(int64_t step) {
  CheckpointManifest m;
  m.position = {step, step * 100, step * 4 + 1, 0xfedcba9876543210u, step * 10};
  m.spec = small_block();
  m.eos_id = 2;
  m.config = Node::Map{{"train", Node::Map{{"lr", 0.1}, {"seed", 7}}}};
  m.state = Node::Map{{"guard", Node::Map{{"window", Node::List{1.5, 2.5}}}}};
  return m;
}

/// Runs body(rank) on a thread per rank.
inline void on_ranks(int64_t world, const std::function<void(int64_t)>& body) {
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < world; ++r) threads.emplace_back(body, r);
  for (std::thread& t : threads) t.join();
}

inline SaverOptions saver_options(const std::filesystem::path& run, int64_t rank = 0,
                                  int64_t world = 1) {
  SaverOptions options;
  options.run = run;
  options.rank = rank;
  options.world = world;
  options.keep = 100;
  options.timeout = std::chrono::seconds(30);
  return options;
}

/// One rank's part of the tensor `name` of `shape`, whose element i is value(i): the elements that
/// lie at [rank/world, (rank + 1)/world).
inline void add_share(Snapshot& snapshot, const std::string& name,
                      const std::vector<int64_t>& shape, int64_t rank, int64_t world,
                      const std::function<float(int64_t)>& value) {
  int64_t numel = 1;
  for (const int64_t d : shape) numel *= d;
  const int64_t first = numel * rank / world, end = numel * (rank + 1) / world;
  std::vector<float> values;
  for (int64_t i = first; i < end; ++i) values.push_back(value(i));
  snapshot.add(name, shape, first, values);
}

/// A checkpoint of `world` ranks whose tensor "parameters/a" [7, 5] is filled with the step.
inline std::vector<CheckpointSaver::Outcome> save_step(
    const std::filesystem::path& run, int64_t step, int64_t world = 1,
    const std::function<void(SaverOptions&)>& change = {}) {
  LocalStore store;
  std::vector<CheckpointSaver::Outcome> outcomes(static_cast<size_t>(world));
  on_ranks(world, [&](int64_t rank) {
    SaverOptions options = saver_options(run, rank, world);
    if (change) change(options);
    CheckpointSaver saver(options, store);
    Snapshot snapshot;
    add_share(snapshot, "parameters/a", {7, 5}, rank, world,
              [&](int64_t) { return static_cast<float>(step); });
    saver.save(manifest_at(step), std::move(snapshot));
    outcomes[static_cast<size_t>(rank)] = saver.finish().at(0);
  });
  return outcomes;
}

inline std::filesystem::path step_folder(const std::filesystem::path& run, int64_t step) {
  return run / fmt::format("checkpoints/step_{:08}", step);
}

inline void flip(const std::filesystem::path& file, size_t offset, char mask = 0x10) {
  std::string bytes = read_text(file);
  bytes.at(offset) = static_cast<char>(bytes.at(offset) ^ mask);
  write_text(file, bytes);
}

/// What is logged while it lives.
class LogCapture {
 public:
  LogCapture() : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "capture", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_)));
  }
  ~LogCapture() { spdlog::set_default_logger(before_); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

}  // namespace ashlar::test
