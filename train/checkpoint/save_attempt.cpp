#include "train/checkpoint/save_attempt.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <thread>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"
#include "train/checkpoint/folders.h"
#include "train/checkpoint/shard.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
namespace folders = checkpoint_folders;
using namespace std::chrono_literals;

// How long a file may take to appear on a network file system after its rank has synced it.
constexpr auto kVisibleWithin = 5s;
// How often a waiting thread looks whether the saver is being closed.
constexpr std::chrono::milliseconds kSlice = 200ms;
// Ranks that a message names one by one.
constexpr size_t kNamed = 8;

bool has_size(const fs::path& path, int64_t bytes) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  return !error && std::cmp_equal(size, bytes);
}

std::string join_some(const std::vector<std::string>& all, const char* separator) {
  const std::vector<std::string> some(
      all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), kNamed)));
  std::string out = fmt::format("{}", fmt::join(some, separator));
  if (all.size() > kNamed) out += fmt::format("{}{} more", separator, all.size() - kNamed);
  return out;
}

}  // namespace

SaveAttempt::SaveAttempt(const SaverOptions& options, KeyValueStore& store,
                         const std::atomic<bool>& abandoned, int64_t attempt, int64_t step,
                         Clock::time_point start)
    : options_(options),
      store_(store),
      abandoned_(abandoned),
      attempt_(attempt),
      step_(step),
      start_(start) {}

std::string SaveAttempt::key(const std::string& what) const {
  return fmt::format("checkpoint/{}/{}/{}", attempt_, step_, what);
}

double SaveAttempt::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

CheckpointSaver::Outcome SaveAttempt::failed(const std::string& reason) const {
  return {step_, false, reason, seconds(), 0};
}

std::optional<std::string> SaveAttempt::wait(const std::string& key, Clock::time_point deadline) {
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    const auto slice = std::clamp(left, 0ms, kSlice);
    if (auto value = store_.wait(key, slice)) return value;
    if (abandoned_ || left <= slice) return std::nullopt;
  }
}

SaveAttempt::Report SaveAttempt::write_own(Snapshot& snapshot) const {
  Report report;
  try {
    // Made anew, a run folder that has vanished would be an empty one on another disk.
    require(fs::is_directory(options_.run), ErrorCode::kIo, "{}: the folder of the run is gone",
            options_.run.string());
    const fs::path folder = folders::partial_path_of(options_.run, step_);
    std::error_code error;
    fs::create_directories(folder, error);
    require(!error, ErrorCode::kIo, "{}: {}", folder.string(), error.message());
    std::vector<TensorPiece> pieces;
    for (const Snapshot::Piece& p : snapshot.pieces) {
      pieces.push_back({p.name, p.shape, p.first, p.values});
    }
    report.file = write_shard(folder, options_.rank, pieces);
  } catch (const std::exception& error) {
    report.error = error.what();
  }
  snapshot.pieces = {};  // as large as the model: not to be kept while waiting for others
  return report;
}

void SaveAttempt::post(const Report& report) {
  Node node = Node::map();
  if (report.file) {
    node.set("bytes", report.file->bytes);
    node.set("sha256", report.file->sha256);
  } else {
    node.set("error", report.error);
  }
  store_.set(rank_key(options_.rank), write_json(node));
}

// Reports of all ranks, those that never came as errors.
std::vector<SaveAttempt::Report> SaveAttempt::collect(Report own) {
  std::vector<Report> reports = {std::move(own)};
  const auto deadline = start_ + options_.timeout;
  bool complete = true;
  for (int64_t r = 1; r < options_.world; ++r) {
    Report report;
    if (const auto text = wait(rank_key(r), deadline)) {
      const Node node = parse_json(*text, rank_key(r));
      if (const Node* error = node.find("error")) {
        report.error = error->as_string();
      } else {
        NodeReader reader(node, rank_key(r));
        report.file = {rank_file_name(r), reader.integer("bytes", 0, int64_t{1} << 62),
                       reader.text("sha256")};
      }
      store_.erase(rank_key(r));
    } else {
      complete = false;
      report.error = abandoned_
                         ? "not waited for, since the run is ending"
                         : fmt::format("did not report within {:.0f} s",
                                       std::chrono::duration<double>(options_.timeout).count());
    }
    reports.push_back(std::move(report));
  }
  check_visible(reports);
  // Whoever reports here has read the verdict before this one.
  if (complete && attempt_ > 0) {
    if (const auto previous = store_.get("checkpoint/previous")) store_.erase(*previous);
  }
  return reports;
}

void SaveAttempt::check_visible(std::vector<Report>& reports) const {
  const fs::path folder = folders::partial_path_of(options_.run, step_);
  const auto deadline =
      Clock::now() + std::min<std::chrono::milliseconds>(kVisibleWithin, options_.timeout);
  for (size_t r = 1; r < reports.size(); ++r) {
    Report& report = reports[r];
    if (!report.file) continue;
    const fs::path path = folder / report.file->name;
    while (!has_size(path, report.file->bytes) && Clock::now() < deadline && !abandoned_) {
      std::this_thread::sleep_for(20ms);
    }
    if (has_size(path, report.file->bytes)) continue;
    report.error = fmt::format(
        "wrote {} ({} bytes), but rank 0 does not see it there: all ranks must use one shared "
        "folder as output",
        path.string(), report.file->bytes);
    report.file.reset();
  }
}

void SaveAttempt::commit(CheckpointManifest& manifest, const std::vector<Report>& reports) const {
  const fs::path folder = folders::partial_path_of(options_.run, step_);
  manifest.world = options_.world;
  manifest.files.clear();
  std::set<std::string> ours;
  for (const Report& report : reports) {
    manifest.files.push_back(*report.file);
    ours.insert(report.file->name);
  }
  // A save that a crash ended, perhaps of more ranks, may have left files behind.
  std::vector<fs::path> strangers;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!ours.contains(entry.path().filename().string())) strangers.push_back(entry.path());
  }
  for (const fs::path& path : strangers) fs::remove_all(path);
  folders::write_manifest(folder, manifest);
  folders::put_in_place(options_.run, step_);
  sync_folder(options_.run);
}

void SaveAttempt::publish(const CheckpointSaver::Outcome& outcome) {
  if (options_.world == 1) return;
  try {
    const Node node = Node::Map{{"ok", outcome.ok},
                                {"reason", outcome.reason},
                                {"seconds", outcome.seconds},
                                {"bytes", outcome.bytes}};
    store_.set(key("outcome"), write_json(node));
    store_.set("checkpoint/previous", key("outcome"));
  } catch (const std::exception& error) {
    spdlog::warn("the other ranks were not told about the checkpoint of step {}: {}", step_,
                 error.what());
  }
}

CheckpointSaver::Outcome SaveAttempt::lead(CheckpointManifest& manifest, Report own) {
  CheckpointSaver::Outcome outcome;
  try {
    const std::vector<Report> reports = collect(std::move(own));
    std::vector<std::string> troubles;
    int64_t bytes = 0;
    for (size_t r = 0; r < reports.size(); ++r) {
      if (reports[r].file)
        bytes += reports[r].file->bytes;
      else
        troubles.push_back(fmt::format("rank {}: {}", r, reports[r].error));
    }
    if (troubles.empty()) {
      commit(manifest, reports);
      outcome = {step_, true, "", seconds(), bytes};
    } else {
      outcome = failed(join_some(troubles, "; "));
    }
  } catch (const std::exception& error) {
    outcome = failed(fmt::format("rank 0: {}", error.what()));
  }
  if (outcome.ok) {
    retain_checkpoints(options_.run, {options_.keep, options_.keep_every}, step_);
  } else {
    folders::remove_folder(folders::partial_path_of(options_.run, step_));
    const auto left = checkpoint_candidates(options_.run);
    const auto whole = std::find_if(left.begin(), left.end(), [](const fs::path& folder) {
      std::error_code ignored;
      return fs::exists(folder / folders::kManifest, ignored);
    });
    spdlog::error("the checkpoint of step {} was NOT written: {}. Training goes on; {}", step_,
                  outcome.reason,
                  whole == left.end() ? std::string("there is no earlier checkpoint")
                                      : "the newest checkpoint is still " + whole->string());
  }
  publish(outcome);
  return outcome;
}

CheckpointSaver::Outcome SaveAttempt::follow() {
  const auto text = wait(key("outcome"), start_ + 2 * options_.timeout);
  if (!text) return failed("rank 0 did not say how the checkpoint ended");
  const Node node = parse_json(*text, key("outcome"));
  NodeReader reader(node, "outcome");
  return {step_, reader.boolean_or("ok", false), reader.text("reason"),
          reader.number("seconds", 0, 1e12), reader.integer("bytes", 0, int64_t{1} << 62)};
}

CheckpointSaver::Outcome SaveAttempt::carry_out(CheckpointManifest& manifest, Snapshot& snapshot) {
  Report own = write_own(snapshot);
  if (options_.rank == 0) return lead(manifest, std::move(own));
  try {
    post(own);
    return follow();
  } catch (const std::exception& error) {
    return failed(fmt::format("rank {}: {}", options_.rank, error.what()));
  }
}

}  // namespace ashlar
