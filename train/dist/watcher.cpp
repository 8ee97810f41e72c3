#include "train/dist/watcher.h"

#include <algorithm>
#include <thread>

#include "core/base/error.h"
#include "train/dist/record.h"

namespace ashlar {
namespace {

using std::chrono::milliseconds;

double seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

std::string join(const std::vector<std::string>& parts, const char* between) {
  return fmt::format("{}", fmt::join(parts, between));
}

std::string during(const std::string& phase) {
  return phase.empty() ? "before its first step" : fmt::format("in \"{}\"", phase);
}

}  // namespace

std::string end_key(int64_t rank) { return fmt::format("end/{}", rank); }
std::string beat_key(int64_t rank) { return fmt::format("beat/{}", rank); }

std::string EndRecord::encode() const {
  return encode_record({std::to_string(static_cast<int>(end)), reason});
}

EndRecord EndRecord::decode(const std::string& text) {
  const auto fields = decode_record(text, 2);
  return {static_cast<RankEnd>(record_number(fields[0])), fields[1]};
}

std::string BeatRecord::encode() const {
  return encode_record(
      {std::to_string(beat), std::to_string(collectives), collective, noticed ? "1" : "0", phase});
}

BeatRecord BeatRecord::decode(const std::string& text) {
  const auto fields = decode_record(text, 5);
  return {record_number(fields[0]), record_number(fields[1]), fields[2], fields[3] == "1",
          fields[4]};
}

Watcher::Watcher(std::unique_ptr<TcpStore> store, const Launch& launch,
                 std::vector<RankIdentity> ranks, const WatcherOptions& options)
    : store_(std::move(store)), launch_(launch), ranks_(std::move(ranks)), options_(options) {
  others_.resize(ranks_.size());
  last_turn_ = Clock::now();
  for (Other& other : others_) other.alive = last_turn_;
}

void Watcher::start() {
  ended_ = false;
  std::thread([self = shared_from_this()] { self->run(); }).detach();
}

void Watcher::stop() {
  std::unique_lock lock(mutex_);
  stop_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, 2 * options_.lost(), [&] { return ended_; });
}

void Watcher::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    try {
      turn();
    } catch (const Error& error) {
      lose_store(error.what());
      lock.lock();
      break;
    }
    lock.lock();
    changed_.wait_for(lock, options_.heartbeat, [&] { return stop_; });
  }
  ended_ = true;
  changed_.notify_all();
}

void Watcher::turn() {
  std::string beat;
  {
    const std::lock_guard lock(mutex_);
    ++own_.beat;
    own_.noticed = finding_.has_value();
    beat = own_.encode();
  }
  store_->set(beat_key(launch_.rank), beat);
  read();
  // A process that has ended said why before: what was read may be older than that.
  if (look_for_gone()) read();
  assess();
}

void Watcher::read() {
  std::vector<std::string> keys;
  std::vector<int64_t> ranks;
  for (int64_t r = 0; r < launch_.world; ++r) {
    if (!is_other(r)) continue;
    ranks.push_back(r);
    keys.push_back(end_key(r));
    keys.push_back(beat_key(r));
  }
  const std::vector<std::string> values = store_->get_all(keys);
  const std::lock_guard lock(mutex_);
  forgive_pause();
  for (size_t i = 0; i < ranks.size(); ++i) {
    Other& other = others_[static_cast<size_t>(ranks[i])];
    const bool was_running = other.end.end == RankEnd::kNot;
    other.end = EndRecord::decode(values[2 * i]);
    if (was_running && other.end.end != RankEnd::kNot) other.leaving = last_turn_;
    if (values[2 * i + 1] == other.beat_text) continue;
    other.beat_text = values[2 * i + 1];
    other.beat = BeatRecord::decode(other.beat_text);
    other.alive = last_turn_;
  }
}

// When this process itself was stopped for a while (and perhaps the whole job with it), the silence
// of the others in that time says nothing.
void Watcher::forgive_pause() {
  const auto now = Clock::now();
  const auto pause = now - last_turn_ - options_.heartbeat;
  if (pause > options_.heartbeat) {
    for (Other& other : others_) other.alive += pause;
  }
  last_turn_ = now;
}

bool Watcher::look_for_gone() {
  const std::lock_guard lock(mutex_);
  bool any = false;
  for (int64_t r = 0; r < launch_.world; ++r) {
    Other& other = others_[static_cast<size_t>(r)];
    if (!is_other(r) || other.end.end != RankEnd::kNot || other.gone) continue;
    const auto& ranks = ranks_;
    other.gone = process_state(ranks[static_cast<size_t>(r)],
                               ranks[static_cast<size_t>(launch_.rank)]) == ProcessState::kGone;
    any = any || other.gone;
  }
  return any;
}

void Watcher::assess() {
  const std::lock_guard lock(mutex_);
  if (finding_) return;
  std::vector<std::string> errors, lost, followed;
  for (int64_t r = 0; r < launch_.world; ++r) {
    if (!is_other(r)) continue;
    const Other& other = others_[static_cast<size_t>(r)];
    if (other.end.end == RankEnd::kError) {
      errors.push_back(fmt::format("{} ended with an error {}: {}", describe(r),
                                   during(other.beat.phase), other.end.reason));
    } else if (other.end.end == RankEnd::kFollowed) {
      followed.push_back(
          fmt::format("{} has ended because of another: {}", describe(r), other.end.reason));
    } else if (other.end.end == RankEnd::kNot &&
               (other.gone || last_turn_ - other.alive > options_.lost())) {
      lost.push_back(lost_text(r));
    }
  }
  // The cause before what followed from it.
  for (const auto* found : {&errors, &lost, &followed}) {
    if (found->empty()) continue;
    finding_ = join(*found, "; ");
    own_.noticed = true;
    changed_.notify_all();
    return;
  }
}

void Watcher::lose_store(const std::string& error) {
  const std::lock_guard lock(mutex_);
  if (finding_) return;
  if (launch_.agent_store) {
    finding_ =
        fmt::format("the launcher's agent at {}:{} no longer serves the store of the run: {}",
                    launch_.address, launch_.port, error);
  } else if (launch_.rank == 0) {
    finding_ = fmt::format("this rank serves the store of the run, but cannot use it: {}", error);
  } else {
    finding_ = fmt::format("{}; it serves the store of the run: {}", lost_text(0), error);
  }
  changed_.notify_all();
}

std::string Watcher::describe(int64_t rank) const {
  const RankIdentity& who = ranks_[static_cast<size_t>(rank)];
  return fmt::format("rank {} ({}, process {})", rank, who.host, who.pid);
}

std::string Watcher::lost_text(int64_t rank) const {
  const Other& other = others_[static_cast<size_t>(rank)];
  const auto state =
      process_state(ranks_[static_cast<size_t>(rank)], ranks_[static_cast<size_t>(launch_.rank)]);
  const std::string silence =
      fmt::format("no heartbeat for {:.1f} s", seconds(Clock::now() - other.alive));
  const auto text = [&](const std::string& how) {
    return fmt::format("{} {}; it was last {}", describe(rank), how, during(other.beat.phase));
  };
  if (other.gone || state == ProcessState::kGone) {
    // After a long silence it may have ended because it was cut off.
    const bool at_once = Clock::now() - other.alive < options_.lost();
    return text(at_once ? "has died: its process is gone"
                        : "has died or was cut off: its process is gone, " + silence);
  }
  if (state == ProcessState::kStopped)
    return text("is stopped (SIGSTOP or a debugger): " + silence);
  if (state == ProcessState::kRunning) {
    return text("is cut off, though its process runs: " + silence);
  }
  return text("is dead, stopped or cut off: " + silence);
}

// The ranks that have begun fewer collectives than this one keep it waiting.
std::string Watcher::slow_text(const CollectiveInfo& what) const {
  std::vector<std::string> behind, disagreeing, abreast;
  for (const int64_t r : what.ranks) {
    if (!is_other(r)) continue;
    const BeatRecord& beat = others_[static_cast<size_t>(r)].beat;
    const int64_t missing = own_.collectives - beat.collectives;
    if (missing > 0) {
      behind.push_back(fmt::format("{} is alive, but still {}, behind by {} collective{}",
                                   describe(r), during(beat.phase), missing,
                                   missing == 1 ? "" : "s"));
    } else if (missing == 0 && beat.collective != own_.collective) {
      disagreeing.push_back(fmt::format("{} is in another collective, {}, {}", describe(r),
                                        beat.collective, during(beat.phase)));
    } else {
      abreast.push_back(fmt::format("{} {}", describe(r), during(beat.phase)));
    }
  }
  if (!behind.empty()) return join(behind, "; ");
  if (!disagreeing.empty()) return join(disagreeing, "; ");
  return "no rank is behind, so the network is stuck or far too slow: " + join(abreast, "; ");
}

void Watcher::report(const std::string& what, const std::string& finding) const {
  const std::string where =
      own_.phase.empty() ? what : own_.phase + (what.empty() ? "" : ": ") + what;
  fail(ErrorCode::kIo, "{}{}{}", where, where.empty() ? "" : ": ", finding);
}

void Watcher::phase(std::string_view what) {
  const std::lock_guard lock(mutex_);
  own_.phase = what;
}

void Watcher::check() {
  const std::lock_guard lock(mutex_);
  if (finding_) report("", *finding_);
}

bool Watcher::noticed() const {
  const std::lock_guard lock(mutex_);
  return finding_.has_value();
}

void Watcher::begun(const CollectiveInfo& what) {
  const std::lock_guard lock(mutex_);
  ++own_.collectives;
  own_.collective = what.name;
}

void Watcher::observe(CollectiveObserver observer) {
  const std::lock_guard lock(observing_);
  observer_ = std::move(observer);
}

void Watcher::ran(const CollectiveInfo& what, Clock::time_point begin, Clock::time_point end) {
  const std::lock_guard lock(observing_);
  if (observer_) observer_(what, begin, end);
}

void Watcher::waiting(const CollectiveInfo& what, milliseconds elapsed) {
  const std::lock_guard lock(mutex_);
  if (finding_) report(what.name, *finding_);
  for (const int64_t r : what.ranks) {
    const Other& other = others_[static_cast<size_t>(r)];
    const bool left = other.end.end == RankEnd::kLeaving || other.end.end == RankEnd::kLeft;
    if (!is_other(r) || !left || Clock::now() - other.leaving < options_.lost()) continue;
    report(what.name, fmt::format("{} has left the run in order, though this rank still waits for "
                                  "it: do all ranks take the same number of steps?",
                                  describe(r)));
  }
  if (elapsed < options_.timeout) return;
  report(what.name,
         fmt::format("not done within {:.1f} s: {}", seconds(options_.timeout), slow_text(what)));
}

void Watcher::failed(const CollectiveInfo& what, const std::string& error) {
  std::unique_lock lock(mutex_);
  // The transport notices first; who is behind it shows in the store a little later.
  changed_.wait_for(lock, 2 * options_.lost(), [&] { return finding_.has_value() || ended_; });
  if (finding_) report(what.name, *finding_);
  std::vector<std::string> peers;
  for (const int64_t r : what.ranks) {
    if (is_other(r)) peers.push_back(describe(r));
  }
  report(what.name, fmt::format("{}; yet {} still show signs of life", error, join(peers, ", ")));
}

}  // namespace ashlar
