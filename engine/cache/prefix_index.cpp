#include "engine/cache/prefix_index.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/io/sha256.h"

namespace ashlar {

PrefixChain::PrefixChain(const std::string& scope, int64_t page_tokens)
    : page_tokens_(page_tokens), last_(sha256(std::as_bytes(std::span(scope)))) {
  ASHLAR_CHECK_GT(page_tokens, 0);
}

void PrefixChain::add(std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) {
    open_.push_back(token);
    if (static_cast<int64_t>(open_.size()) < page_tokens_) continue;
    std::vector<std::byte> text(last_.begin(), last_.end());
    const auto bytes = std::as_bytes(std::span(open_));
    text.insert(text.end(), bytes.begin(), bytes.end());
    last_ = sha256(text);
    pages_.push_back(last_);
    open_.clear();
  }
}

const char* PrefixIndex::why_not(const Policy* policy, const CacheOptions& options) {
  if (options.zip) return "which rows of a beginning are salient depends on what follows it";
  if (policy == nullptr) return nullptr;
  if (policy->needs().recall) return "the policy keeps queries and a backup beside them";
  return policy->needs().reducer == ScoreReducer::kNone
             ? nullptr
             : "the policy keeps scores of rows beside them";
}

int64_t PrefixIndex::match(std::span<const PrefixHash> chain, int64_t most,
                           const SequenceCache& like) const {
  const std::vector<const Lane*> lanes = like.lanes();
  std::vector<const Entry*> found;
  for (const PrefixHash& hash :
       chain.first(static_cast<size_t>(std::min(most, static_cast<int64_t>(chain.size()))))) {
    const auto entry = entries_.find(hash);
    if (entry == entries_.end()) break;
    found.push_back(&entry->second);
  }
  const auto usable = [&](int64_t n) {
    for (size_t l = 0; l < lanes.size(); ++l) {
      for (int64_t page = lanes[l]->shared_begin(n); page < n; ++page) {
        const Forms& forms = found[static_cast<size_t>(page)]->lanes[l];
        if (!(lanes[l]->final_form(page, n) ? forms.last : forms.late)) return false;
      }
    }
    return true;
  };
  auto n = static_cast<int64_t>(found.size());
  while (n > 0 && !usable(n)) --n;
  return n;
}

void PrefixIndex::touch(Entry& entry) { ages_.splice(ages_.end(), ages_, entry.age); }

void PrefixIndex::adopt(std::span<const PrefixHash> chain, int64_t pages, SequenceCache& cache) {
  std::vector<Entry*> entries;
  for (int64_t page = 0; page < pages; ++page) {
    entries.push_back(&entries_.at(chain[static_cast<size_t>(page)]));
    touch(*entries.back());
  }
  const std::vector<const Lane*> lanes = std::as_const(cache).lanes();
  cache.adopt(pages, [&](size_t lane, int64_t page) {
    const Forms& forms = entries[static_cast<size_t>(page)]->lanes[lane];
    return lanes[lane]->final_form(page, pages) ? forms.last : forms.late;
  });
}

int64_t PrefixIndex::publish(std::span<const PrefixHash> chain, int64_t first,
                             const SequenceCache& cache) {
  const auto n = static_cast<int64_t>(chain.size());
  if (!cache.intact()) return n;
  const std::vector<const Lane*> lanes = cache.lanes();
  int64_t settled = first;
  for (int64_t page = first; page < n; ++page) {
    Entry* entry = find_or_add(chain, page, lanes.size());
    if (entry == nullptr) return n;  // what it would follow is gone
    touch(*entry);
    bool settles = true;
    for (size_t l = 0; l < lanes.size(); ++l) {
      const bool last = lanes[l]->final_form(page, n);
      PageId& kept = last ? entry->lanes[l].last : entry->lanes[l].late;
      if (const PageId now = kept ? PageId{} : lanes[l]->page_at(page)) {
        pool_.share(now);
        kept = now;
      }
      const bool gone = page < lanes[l]->shared_begin(n);  // out of a window
      settles = settles && last && (kept || gone);
    }
    if (settles && settled == page) ++settled;
  }
  while (pool_.bytes() > capacity_ && evict_one()) {
  }
  return settled;
}

PrefixIndex::Entry* PrefixIndex::find_or_add(std::span<const PrefixHash> chain, int64_t page,
                                             size_t lanes) {
  const PrefixHash& hash = chain[static_cast<size_t>(page)];
  const auto found = entries_.find(hash);
  if (found != entries_.end()) return &found->second;
  Entry entry;
  if (page > 0) {
    entry.before = chain[static_cast<size_t>(page - 1)];
    const auto before = entries_.find(*entry.before);
    if (before == entries_.end()) return nullptr;
    ++before->second.behind;
  }
  entry.lanes.resize(lanes);
  entry.age = ages_.insert(ages_.end(), hash);
  return &entries_.emplace(hash, std::move(entry)).first->second;
}

bool PrefixIndex::evict_one() {
  const auto oldest = std::find_if(ages_.begin(), ages_.end(), [&](const PrefixHash& hash) {
    return entries_.at(hash).behind == 0;
  });
  if (oldest == ages_.end()) return false;
  const auto at = entries_.find(*oldest);
  const Entry& entry = at->second;
  for (const Forms& forms : entry.lanes) {
    if (forms.last) pool_.give(forms.last);
    if (forms.late) pool_.give(forms.late);
  }
  if (entry.before) --entries_.at(*entry.before).behind;
  ages_.erase(entry.age);
  entries_.erase(at);
  return true;
}

void PrefixIndex::clear() {
  while (evict_one()) {
  }
}

}  // namespace ashlar
