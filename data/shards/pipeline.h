#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "data/shards/documents.h"
#include "data/shards/duplicates.h"

// Private to data/shards.

namespace ashlar {

/// A document ready to be written.
struct PreparedDocument {
  std::vector<int32_t> ids;
  int64_t bytes = 0;  ///< of its text
  int64_t line = 0;
  bool too_long = false;  ///< passed over; holds nothing else
  DocumentKey key;        ///< where duplicates are looked for
};

/// Some neighbouring records of one file, and what became of them.
struct Chunk {
  size_t file = 0;
  std::vector<Record> records;  ///< emptied by the work
  std::vector<PreparedDocument> documents;
  RecordPosition end;    ///< behind the last record
  int64_t consumed = 0;  ///< bytes of the file on disk up to there, about
  int64_t cost = 0;      ///< charged bytes of memory
  bool done = false;
  std::exception_ptr error;
};

/// Reads files and turns their records into documents on many threads, and hands out the results in
/// the order of the input.
///
/// Up to four files are read and decompressed at a time, the work on their records runs on
/// `threads` threads. Memory is bounded: a record of n bytes is charged kCost·n from reading until
/// it is handed out, which covers its line, its text and its tokens (at two bytes of text a token
/// or more). The file whose turn it is may have memory/2 in flight, the ones behind it memory/8
/// together, and what readers are about to hand over (a record at most memory/kShare) comes on top.
/// So no file ever waits for a later one.
class DocumentPipeline {
 public:
  static constexpr int64_t kCost = 8;
  static constexpr int64_t kShare = 32;
  static constexpr int64_t kLeastMemory = 64 << 20;  ///< below, buffers of fixed size would count

  struct Options {
    int threads = 1;
    int64_t memory = 0;     ///< ≥ kLeastMemory
    int64_t max_bytes = 0;  ///< of a record; ≤ memory/kShare
    bool skip_long = false;
    size_t first_file = 0;       ///< where to begin
    RecordPosition first_place;  ///< in it
  };
  using Work = std::function<void(const InputFile&, Chunk&)>;

  /// Keeps a reference to `files`. `work` fills `documents` from `records`, on any thread.
  DocumentPipeline(const std::vector<InputFile>& files, const Options& options, Work work);
  /// Stops early when not everything was taken.
  ~DocumentPipeline();
  DocumentPipeline(const DocumentPipeline&) = delete;
  DocumentPipeline& operator=(const DocumentPipeline&) = delete;

  /// Next piece in the order of the input; null at the end. Throws what the work on it threw: the
  /// first error in the order of the input, whatever the threads.
  std::unique_ptr<Chunk> next();

 private:
  struct Queue {
    std::deque<Chunk*> chunks;  ///< owned
    int64_t cost = 0;
    bool finished = false;  ///< all of it was read
  };

  void read_files();
  void read_file(size_t index);
  void push(std::unique_ptr<Chunk> chunk);
  bool has_room(size_t file, int64_t cost) const;
  void do_work();
  void stop();

  const std::vector<InputFile>& files_;
  Options options_;
  Work work_;
  int64_t chunk_bytes_;
  size_t most_chunks_;

  std::mutex mutex_;
  std::condition_variable room_, work_ready_, chunk_ready_;
  bool stop_ = false;
  size_t next_file_;                ///< to be read
  size_t head_;                     ///< whose turn it is
  std::map<size_t, Queue> queues_;  ///< of files begun and not yet handed out
  std::deque<Chunk*> to_do_;        ///< not owned
  int64_t others_cost_ = 0;         ///< of chunks of files behind head_
  size_t others_chunks_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace ashlar
