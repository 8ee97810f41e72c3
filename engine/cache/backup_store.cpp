#include "engine/cache/backup_store.h"

#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>

#include "core/base/error.h"
#include "engine/cache/arena.h"
#include "engine/cache/spill_file.h"

namespace ashlar {
namespace {

/// Memory of copies, in huge pages as the arena they come from: attention reads them in place.
class CopyMemory : public std::enable_shared_from_this<CopyMemory> {
 public:
  std::shared_ptr<const std::byte[]> copy(std::span<const std::byte> bytes) {
    std::unique_lock lock(mutex_);
    const PageId page = slots_.allocate(static_cast<int64_t>(bytes.size()));
    std::byte* const memory = slots_.writable(page);
    lock.unlock();
    std::memcpy(memory, bytes.data(), bytes.size());
    return {memory, [self = shared_from_this(), page](const std::byte*) {
              const std::scoped_lock release_lock(self->mutex_);
              self->slots_.release(page);
            }};
  }

 private:
  std::mutex mutex_;
  const std::unique_ptr<MemoryProvider> memory_ = make_host_memory();
  Arena slots_{*memory_};
};

}  // namespace

struct BackupStore::Shared {
  BackupOptions options;
  std::shared_ptr<CopyMemory> copies;  // from the first copy on
  mutable std::mutex mutex;
  mutable std::condition_variable changed;
  std::list<BackupPage*> in_memory;  // the oldest first; those that may go to the file
  int64_t memory = 0;
  bool writing = false, stop = false;
  std::string error;
  std::optional<SpillFile> file;

  bool passed() const { return options.memory >= 0 && memory > options.memory && error.empty(); }
};

BackupStore::BackupStore(const BackupOptions& options) : shared_(std::make_shared<Shared>()) {
  shared_->options = options;
  if (options.memory >= 0) {
    shared_->file.emplace(options.folder);
    writer_ = std::thread([shared = shared_] { write_pages(*shared); });
  }
}

BackupStore::~BackupStore() {
  {
    const std::scoped_lock lock(shared_->mutex);
    shared_->stop = true;
  }
  shared_->changed.notify_all();
  if (writer_.joinable()) writer_.join();
}

// A page is released outside the lock: its end takes the lock itself.
void BackupStore::write_pages(Shared& shared) {
  std::unique_lock lock(shared.mutex);
  while (true) {
    shared.changed.wait(
        lock, [&] { return shared.stop || (shared.passed() && !shared.in_memory.empty()); });
    if (shared.stop) return;
    BackupPage& oldest = *shared.in_memory.front();
    shared.in_memory.pop_front();
    oldest.listed_ = false;
    std::shared_ptr<BackupPage> page = oldest.weak_from_this().lock();
    if (page == nullptr) continue;  // its end is waiting for the lock
    const std::shared_ptr<const std::byte[]> bytes = page->memory_;
    shared.writing = true;
    lock.unlock();
    int64_t offset = -1;
    std::string error;
    try {
      offset = shared.file->write(std::span(bytes.get(), static_cast<size_t>(page->bytes_)));
    } catch (const Error& e) {
      error = e.what();
    }
    lock.lock();
    if (error.empty()) {
      page->offset_ = offset;
      page->memory_.reset();
      shared.memory -= page->bytes_;
    } else {
      shared.error = error;
    }
    lock.unlock();
    page.reset();  // given up meanwhile, it gives its place back: that must be done before we rest
    lock.lock();
    shared.writing = false;
    shared.changed.notify_all();
  }
}

std::shared_ptr<const BackupPage> BackupStore::add(std::span<const std::byte> bytes) {
  auto page = std::make_shared<BackupPage>(shared_, bytes);
  std::unique_lock lock(shared_->mutex);
  if (shared_->options.memory < 0) return page;
  page->place_ = shared_->in_memory.insert(shared_->in_memory.end(), page.get());
  page->listed_ = true;
  shared_->changed.notify_all();
  shared_->changed.wait(lock, [&] {
    return !shared_->passed() || shared_->memory <= shared_->options.memory + kSlack;
  });
  return page;
}

void BackupStore::check() const {
  const std::scoped_lock lock(shared_->mutex);
  require(shared_->error.empty(), ErrorCode::kIo, "{}", shared_->error);
}

void BackupStore::settle() const {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(lock, [&] { return !shared_->passed() && !shared_->writing; });
}

int64_t BackupStore::memory_bytes() const {
  const std::scoped_lock lock(shared_->mutex);
  return shared_->memory;
}

int64_t BackupStore::file_bytes() const { return shared_->file ? shared_->file->bytes() : 0; }

BackupPage::BackupPage(std::shared_ptr<BackupStore::Shared> shared,
                       std::span<const std::byte> bytes)
    : shared_(std::move(shared)), bytes_(static_cast<int64_t>(bytes.size())) {
  std::unique_lock lock(shared_->mutex);
  if (shared_->copies == nullptr) shared_->copies = std::make_shared<CopyMemory>();
  const std::shared_ptr<CopyMemory> copies = shared_->copies;
  lock.unlock();
  memory_ = copies->copy(bytes);
  if (shared_->options.memory < 0) in_place_ = memory_.get();
  lock.lock();
  shared_->memory += bytes_;
}

BackupPage::~BackupPage() {
  if (offset_ >= 0) {
    shared_->file->give_back(offset_, bytes_);
    return;
  }
  {
    const std::scoped_lock lock(shared_->mutex);
    if (listed_) shared_->in_memory.erase(place_);
    shared_->memory -= bytes_;
  }
  shared_->changed.notify_all();
}

void BackupPage::read(std::span<std::byte> to) const {
  ASHLAR_CHECK_EQ(static_cast<int64_t>(to.size()), bytes_);
  std::shared_ptr<const std::byte[]> memory;
  {
    const std::scoped_lock lock(shared_->mutex);
    memory = memory_;
  }
  if (memory != nullptr) {
    std::memcpy(to.data(), memory.get(), to.size());
  } else {
    shared_->file->read(offset_, to);
  }
}

std::vector<std::byte> BackupPage::copy() const {
  std::vector<std::byte> bytes(static_cast<size_t>(bytes_));
  read(bytes);
  return bytes;
}

void BackupPage::will_need() const {
  {
    const std::scoped_lock lock(shared_->mutex);
    if (memory_ != nullptr) return;
  }
  shared_->file->will_need(offset_, bytes_);
}

}  // namespace ashlar
