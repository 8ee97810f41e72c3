#include "data/shards/prepare_journal.h"

#include <limits>

#include "core/base/error.h"
#include "core/io/atomic_file.h"
#include "core/io/json.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJournal = "journal.json";
constexpr const char* kFormat = "ashlar-prepare-1";
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr const char* kDuplicates[] = {"none", "exact", "near"};

InputStatistics statistics_from(const Node& node) {
  NodeReader reader(node);
  InputStatistics s;
  s.file = reader.text("file");
  for (const auto& [key, value] : {std::pair{"documents", &s.documents},
                                   {"tokens", &s.tokens},
                                   {"bytes", &s.bytes},
                                   {"empty", &s.empty},
                                   {"exact_duplicates", &s.exact_duplicates},
                                   {"near_duplicates", &s.near_duplicates},
                                   {"too_long", &s.too_long}}) {
    *value = reader.integer(key, 0, kMost);
  }
  reader.finish();
  return s;
}

ShardInfo shard_from(const Node& node) {
  NodeReader reader(node);
  ShardInfo shard;
  shard.file = reader.text("file");
  shard.tokens = reader.integer("tokens", 0, kMost);
  shard.documents = reader.integer("documents", 0, kMost);
  shard.source_bytes = reader.integer("source_bytes", 0, kMost);
  reader.finish();
  return shard;
}

Node to_node(const ShardWriter::State& state) {
  Node shards = Node::list();
  for (const ShardInfo& shard : state.shards) shards.push(ashlar::to_node(shard));
  return Node::Map{{"shards", std::move(shards)}, {"current", ashlar::to_node(state.current)}};
}

Node to_node(const PrepareProgress& p) {
  Node parts = Node::list();
  for (const ShardWriter::State& part : p.parts) parts.push(to_node(part));
  Node files = Node::list();
  for (const InputStatistics& file : p.statistics.files) files.push(ashlar::to_node(file));
  return Node::Map{{"file", static_cast<int64_t>(p.file)},
                   {"offset", p.place.offset},
                   {"line", p.place.line},
                   {"documents", p.documents},
                   {"total", ashlar::to_node(p.statistics.total)},
                   {"longest_tokens", p.statistics.longest_tokens},
                   {"longest_document", p.statistics.longest_document},
                   {"files", std::move(files)},
                   {"parts", std::move(parts)},
                   {"duplicate_keys", p.duplicate_keys},
                   {"complete", p.complete}};
}

PrepareProgress progress_from(const Node& node) {
  NodeReader reader(node, "progress");
  PrepareProgress p;
  p.file = static_cast<size_t>(reader.integer("file", 0, kMost));
  p.place.offset = reader.integer("offset", 0, kMost);
  p.place.line = reader.integer("line", 0, kMost);
  p.documents = reader.integer("documents", 0, kMost);
  p.statistics.total = statistics_from(reader.required("total"));
  p.statistics.longest_tokens = reader.integer("longest_tokens", 0, kMost);
  p.statistics.longest_document = reader.text("longest_document");
  for (const Node& file : reader.required("files").as_list()) {
    p.statistics.files.push_back(statistics_from(file));
  }
  for (const Node& part : reader.required("parts").as_list()) {
    NodeReader values(part, "progress.parts");
    ShardWriter::State state;
    for (const Node& shard : values.required("shards").as_list()) {
      state.shards.push_back(shard_from(shard));
    }
    state.current = shard_from(values.required("current"));
    values.finish();
    p.parts.push_back(std::move(state));
  }
  p.duplicate_keys = reader.integer("duplicate_keys", 0, kMost);
  p.complete = reader.boolean_or("complete", false);
  reader.finish();
  return p;
}

/// [[path, bytes, modified], …]
Node to_node(const std::vector<InputFile>& files) {
  Node list = Node::list();
  for (const InputFile& file : files) {
    list.push(Node::List{file.path.string(), file.bytes, file.modified});
  }
  return list;
}

[[noreturn]] void refuse(const fs::path& folder, const std::string& difference) {
  fail(ErrorCode::kRequest,
       "{}: holds an interrupted preparation, but {}; repeat the request that it was begun with, "
       "or begin anew with --restart",
       folder.string(), difference);
}

void check_request(const fs::path& folder, const Node& then, const Node& now) {
  for (const auto& [key, value] : now.as_map()) {
    const Node* before = then.find(key);
    const std::string was = before == nullptr ? "absent" : write_json(*before);
    const std::string is = write_json(value);
    if (was != is) refuse(folder, fmt::format("{} was {} and is now {}", key, was, is));
  }
}

// Files that are still to be read may have changed; their names may not.
void check_files(const fs::path& folder, const Node::List& then, const std::vector<InputFile>& now,
                 const PrepareProgress& progress) {
  if (then.size() != now.size()) {
    refuse(folder,
           fmt::format("it had {} input files and there are now {}", then.size(), now.size()));
  }
  for (size_t i = 0; i < now.size(); ++i) {
    const Node::List& before = then[i].as_list();
    if (before.at(0).as_string() != now[i].path.string()) {
      refuse(folder, fmt::format("input file {} was {} and is now {}", i + 1,
                                 before.at(0).as_string(), now[i].path.string()));
    }
    const bool begun = i < progress.file || (i == progress.file && progress.place.line > 0);
    const bool same =
        before.at(1).as_int() == now[i].bytes && before.at(2).as_int() == now[i].modified;
    if (begun && !same) {
      refuse(folder, fmt::format("{} changed since it was read", now[i].path.string()));
    }
  }
}

fs::path without_slash(const fs::path& path) {
  const fs::path name = path.has_filename() ? path : path.parent_path();
  require(name.has_filename(), ErrorCode::kRequest, "'{}' is no name for a new folder",
          path.string());
  return name;
}

}  // namespace

Node to_node(const InputStatistics& s) {
  return Node::Map{{"file", s.file},
                   {"documents", s.documents},
                   {"tokens", s.tokens},
                   {"bytes", s.bytes},
                   {"empty", s.empty},
                   {"exact_duplicates", s.exact_duplicates},
                   {"near_duplicates", s.near_duplicates},
                   {"too_long", s.too_long}};
}

Node to_node(const PrepareStatistics& s) {
  Node files = Node::list();
  for (const InputStatistics& file : s.files) files.push(to_node(file));
  const InputStatistics& t = s.total;
  return Node::Map{
      {"documents", t.documents},
      {"tokens", t.tokens},
      {"bytes", t.bytes},
      {"bytes_per_token", static_cast<double>(t.bytes) / static_cast<double>(t.tokens)},
      {"longest_tokens", s.longest_tokens},
      {"longest_document", s.longest_document},
      {"empty", t.empty},
      {"exact_duplicates", t.exact_duplicates},
      {"near_duplicates", t.near_duplicates},
      {"too_long", t.too_long},
      {"files", std::move(files)}};
}

Node to_node(const ShardInfo& shard) {
  return Node::Map{{"file", shard.file},
                   {"tokens", shard.tokens},
                   {"documents", shard.documents},
                   {"source_bytes", shard.source_bytes}};
}

Node request_of(const PrepareOptions& o, const std::string& vocabulary_sha256, DType dtype) {
  Node request = Node::Map{{"text_key", o.text_key},
                           {"vocabulary_sha256", vocabulary_sha256},
                           {"validation_share", o.validation_share},
                           {"seed", std::to_string(o.seed)},  // 64 bits: more than JSON keeps
                           {"dtype", dtype == DType::kU16 ? "uint16" : "uint32"},
                           {"shard_tokens", o.shard_tokens},
                           {"dedup", kDuplicates[static_cast<size_t>(o.duplicates.kind)]},
                           {"long_documents", o.skip_long ? "skip" : "error"}};
  if (o.duplicates.kind == Duplicates::kNear) {
    request.set("dedup_threshold", o.duplicates.threshold);
    request.set("dedup_ngram", o.duplicates.ngram);
    request.set("dedup_bands", o.duplicates.bands);
    request.set("dedup_rows", o.duplicates.rows);
  }
  if (o.skip_long) request.set("max_document", o.max_document);
  return request;
}

PrepareFolder::PrepareFolder(const fs::path& output) : output_(without_slash(output)) {
  path_ = output_.string() + ".partial";
  std::error_code error;
  if (fs::exists(path_)) {
    require(fs::exists(path_ / ".lock") || fs::is_empty(path_), ErrorCode::kRequest,
            "{}: is in the way and was not made by this command", path_.string());
  } else {
    require(!fs::exists(output_), ErrorCode::kRequest,
            "{}: exists already; remove it or choose another output", output_.string());
  }
  fs::create_directories(path_, error);
  require(!error, ErrorCode::kIo, "{}: cannot create: {}", path_.string(), error.message());
  lock_.emplace(path_, "preparing data");
  // A journal without shards: all was done but for removing this folder. (Shards are made before
  // the journal and removed after it.)
  const bool journal = fs::exists(path_ / kJournal);
  const bool published = journal && !fs::exists(shards());
  if (published && !fs::exists(output_)) clear();  // the output was taken away since
  if (!fs::exists(output_) || published) return;
  if (!journal) discard();
  fail(ErrorCode::kRequest, "{}: exists already; remove it or choose another output",
       output_.string());
}

std::optional<PrepareProgress> PrepareFolder::load(const Node& request,
                                                   const std::vector<InputFile>& files) {
  const fs::path path = path_ / kJournal;
  if (!fs::exists(path)) return std::nullopt;
  const Node journal = load_json(path);
  NodeReader reader(journal);
  require(reader.text("format") == kFormat, ErrorCode::kData, "{}: is of another version",
          path.string());
  PrepareProgress progress = progress_from(reader.required("progress"));
  check_request(path_, reader.required("request"), request);
  check_files(path_, reader.required("inputs").as_list(), files, progress);
  reader.finish();
  return progress;
}

void PrepareFolder::save(const Node& request, const std::vector<InputFile>& files,
                         const PrepareProgress& progress) {
  const Node journal = Node::Map{{"format", kFormat},
                                 {"request", request},
                                 {"inputs", to_node(files)},
                                 {"progress", to_node(progress)}};
  write_file_atomically(path_ / kJournal, write_json(journal) + "\n");
}

void PrepareFolder::clear() {
  fs::remove(path_ / kJournal);
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    if (entry.path().filename() != ".lock") found.push_back(entry.path());
  }
  for (const fs::path& path : found) fs::remove_all(path);
}

void PrepareFolder::publish() {
  if (fs::exists(shards())) {
    std::vector<fs::path> raw;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(shards())) {
      if (entry.path().extension() == ".tmp") raw.push_back(entry.path());
    }
    for (const fs::path& path : raw) fs::remove(path);
    sync_folder(shards());
    std::error_code error;
    fs::rename(shards(), output_, error);
    require(!error, ErrorCode::kIo, "{}: cannot rename into place: {}", output_.string(),
            error.message());
    sync_folder(fs::absolute(output_).parent_path());
  }
  fs::remove(keys());
  discard();
}

void PrepareFolder::discard() {
  std::error_code ignored;
  fs::remove(path_ / kJournal, ignored);
  fs::remove_all(path_, ignored);
}

}  // namespace ashlar
