#include "data/shards/pipeline.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int kMostReaders = 4;
constexpr int64_t kMostChunkBytes = 1 << 20;

}  // namespace

DocumentPipeline::DocumentPipeline(const std::vector<InputFile>& files, const Options& options,
                                   Work work)
    : files_(files),
      options_(options),
      work_(std::move(work)),
      chunk_bytes_(std::min(kMostChunkBytes, options.memory / (16 * kCost * options.threads))),
      most_chunks_(static_cast<size_t>(4 * options.threads + 4)),
      next_file_(options.first_file),
      head_(options.first_file) {
  ASHLAR_CHECK(options.threads >= 1 && options.memory >= kLeastMemory);
  ASHLAR_CHECK(options.max_bytes >= 1 && options.max_bytes <= options.memory / kShare);
  const int left = static_cast<int>(std::min<size_t>(files.size() - head_, kMostReaders));
  const int readers = std::clamp(left, 1, std::max(2, options.threads));
  try {
    for (int i = 0; i < readers; ++i) threads_.emplace_back([this] { read_files(); });
    for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { do_work(); });
  } catch (const std::system_error& error) {
    const size_t started = threads_.size();
    stop();
    fail(ErrorCode::kResource, "cannot start {} threads, only {}: {}", readers + options.threads,
         started, error.what());
  }
}

DocumentPipeline::~DocumentPipeline() { stop(); }

void DocumentPipeline::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  room_.notify_all();
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (auto& [file, queue] : queues_) {
    for (Chunk* chunk : queue.chunks) delete chunk;
  }
}

bool DocumentPipeline::has_room(size_t file, int64_t cost) const {
  if (file == head_) {
    const Queue& own = queues_.at(file);
    // Its chunks are taken one after the other, so a file whose turn it is always gets ahead.
    return own.chunks.empty() ||
           (own.chunks.size() < most_chunks_ && own.cost + cost <= options_.memory / 2);
  }
  return others_chunks_ < most_chunks_ && others_cost_ + cost <= options_.memory / 8;
}

void DocumentPipeline::push(std::unique_ptr<Chunk> chunk) {
  std::unique_lock lock(mutex_);
  const size_t file = chunk->file;
  Queue& queue = queues_[file];
  room_.wait(lock, [&] { return stop_ || has_room(file, chunk->cost); });
  if (stop_) return;
  queue.cost += chunk->cost;
  if (file != head_) {
    others_cost_ += chunk->cost;
    ++others_chunks_;
  }
  queue.chunks.push_back(chunk.release());
  if (queue.chunks.back()->done) {
    chunk_ready_.notify_one();
  } else {
    to_do_.push_back(queue.chunks.back());
    work_ready_.notify_one();
  }
}

void DocumentPipeline::read_file(size_t index) {
  auto chunk = std::make_unique<Chunk>();
  chunk->file = index;
  const auto hand_over = [&] {
    push(std::exchange(chunk, std::make_unique<Chunk>()));
    chunk->file = index;
  };
  try {
    const bool first = index == options_.first_file;
    RecordReader reader(files_[index], options_.max_bytes, options_.skip_long,
                        first ? options_.first_place : RecordPosition{});
    int64_t bytes = 0;
    Record record;
    while (reader.next(record)) {
      const auto size = static_cast<int64_t>(record.bytes.size());
      // A long record is a chunk of its own.
      if (!chunk->records.empty() && bytes + size > chunk_bytes_) {
        hand_over();
        bytes = 0;
      }
      bytes += size;
      chunk->cost += kCost * size + static_cast<int64_t>(sizeof(Record));
      chunk->records.push_back(std::exchange(record, {}));
      chunk->end = reader.position();
      chunk->consumed = reader.consumed();
    }
    if (!chunk->records.empty()) hand_over();
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    if (!chunk->records.empty()) hand_over();
    chunk->error = error;
    chunk->done = true;
    hand_over();
  }
}

void DocumentPipeline::read_files() {
  while (true) {
    size_t index = 0;
    {
      const std::lock_guard lock(mutex_);
      if (stop_ || next_file_ == files_.size()) return;
      index = next_file_++;
    }
    read_file(index);
    const std::lock_guard lock(mutex_);
    queues_[index].finished = true;
    chunk_ready_.notify_one();
  }
}

void DocumentPipeline::do_work() {
  while (true) {
    Chunk* chunk = nullptr;
    {
      std::unique_lock lock(mutex_);
      work_ready_.wait(lock, [&] { return stop_ || !to_do_.empty(); });
      if (stop_) return;
      chunk = to_do_.front();
      to_do_.pop_front();
    }
    std::exception_ptr error;
    try {
      work_(files_[chunk->file], *chunk);
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    chunk->error = error;
    chunk->done = true;
    chunk_ready_.notify_one();
  }
}

std::unique_ptr<Chunk> DocumentPipeline::next() {
  std::unique_ptr<Chunk> chunk;
  {
    std::unique_lock lock(mutex_);
    while (true) {
      if (head_ == files_.size()) return nullptr;
      const Queue& queue = queues_[head_];
      if (!queue.chunks.empty() && queue.chunks.front()->done) break;
      if (!queue.chunks.empty() || !queue.finished) {
        chunk_ready_.wait(lock);
        continue;
      }
      queues_.erase(head_++);
      others_cost_ -= queues_[head_].cost;  // no longer one of those behind
      others_chunks_ -= queues_[head_].chunks.size();
      room_.notify_all();
    }
    Queue& queue = queues_[head_];
    chunk.reset(queue.chunks.front());
    queue.chunks.pop_front();
    queue.cost -= chunk->cost;
    room_.notify_all();
  }
  if (chunk->error) std::rethrow_exception(chunk->error);
  return chunk;
}

}  // namespace ashlar
