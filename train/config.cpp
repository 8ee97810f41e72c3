#include "train/config.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <limits>

#include "core/base/cpu.h"
#include "core/base/error.h"
#include "train/graph_config.h"
#include "train/run_plan.h"

namespace ashlar {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;
constexpr int64_t kLeastBf16Width = 128;

// `none`, `all`, or globs over the names of stages.
std::vector<std::string> read_recompute(const Node& node) {
  if (node.is_list()) {
    std::vector<std::string> globs;
    for (const Node& entry : node.as_list()) globs.push_back(entry.as_string());
    if (globs.empty()) fail_at(node, "train.recompute", "an empty list; use none");
    return globs;
  }
  const std::string text = node.as_string();
  if (text == "none") return {};
  if (text == "all") return {"*"};
  fail_at(node, "train.recompute", "expected none, all or a list of globs over stage names");
}

void read_mup(const Node& node, TrainConfig& config) {
  if (config.model.tied_head) {
    fail_at(node, "train.mup",
            "a tied head cannot be scaled apart from the token table: set model.tied_head: false");
  }
  NodeReader reader(node, "train.mup");
  config.init.base_width = reader.integer("base_width", 1, int64_t{1} << 20);
  reader.finish();
}

void read_train(const Node& node, TrainConfig& config) {
  NodeReader reader(node, "train");
  config.seed =
      static_cast<uint64_t>(reader.integer_or("seed", 1, 0, std::numeric_limits<int64_t>::max()));
  config.steps = reader.integer("steps", 1, kMost);
  config.context = reader.integer("context", 1, int64_t{1} << 30);
  config.batch_size = reader.integer("batch_size", 1, int64_t{1} << 24);
  config.micro_batch = reader.integer_or("micro_batch", config.batch_size, 1, config.batch_size);
  config.precision =
      static_cast<Precision>(reader.choice_or("precision", 0, {"auto", "fp32", "bf16"}));
  config.device = static_cast<DeviceKind>(reader.choice_or("device", 0, {"auto", "cpu", "cuda"}));
  config.cuda_graphs = reader.boolean_or("cuda_graphs", false);
  config.threads = reader.integer_or("threads", 0, 0, 4096);
  if (const Node* limit = reader.optional("memory_limit")) {
    config.memory_limit = read_bytes(*limit, "train.memory_limit");
  }
  config.document_mask = reader.boolean_or("document_mask", false);
  if (const Node* stages = reader.optional("recompute")) {
    config.recompute = read_recompute(*stages);
  }
  config.z_loss = reader.number_or("z_loss", 0.0, 0.0, 1.0);
  if (config.document_mask && config.model.block && config.model.block->pad == BlockPad::kNone) {
    fail_at(reader.required("document_mask"), "train.document_mask",
            "a block holds tokens of two documents unless model.block.pad is random");
  }
  if (const Node* extra = reader.optional("block_losses")) {
    if (!config.model.block) fail_at(*extra, "train.block_losses", "needs a Block Transformer");
    NodeReader values(*extra, "train.block_losses");
    config.block_losses.decoding = static_cast<BlockDecodingLoss>(
        values.choice_or("decoding", 0, {"none", "mse", "contrastive"}));
    config.block_losses.decoding_weight = values.number_or("decoding_weight", 1.0, 0.0, 1e6);
    config.block_losses.auto_encoding_weight =
        values.number_or("auto_encoding_weight", 0.0, 0.0, 1e6);
    values.finish();
  }
  if (const Node* init = reader.optional("init")) {
    NodeReader values(*init, "train.init");
    config.init.deviation = values.number_or("std", config.init.deviation, 1e-6, 10.0);
    config.init.scaled_outputs = values.choice_or("outputs", 0, {"scaled", "plain"}) == 0;
    values.finish();
  }
  if (const Node* mup = reader.optional("mup")) read_mup(*mup, config);
  if (config.context > config.model.context_length) {
    fail_at(reader.required("context"), "train.context",
            fmt::format("{} exceeds model.context_length = {}", config.context,
                        config.model.context_length));
  }
  if (config.model.block && config.context % config.model.block->length != 0) {
    fail_at(reader.required("context"), "train.context",
            fmt::format("{} is not a multiple of model.block.length = {}", config.context,
                        config.model.block->length));
  }
  reader.finish();
}

void read_cadence(NodeReader& root, TrainConfig& config) {
  if (const Node* node = root.optional("validation")) {
    NodeReader reader(*node, "validation");
    config.validation_every = reader.integer_or("every", 0, 0, kMost);
    config.validation_batches = reader.integer_or("batches", 0, 0, kMost);
    reader.finish();
    if (!config.data.validates()) {
      fail_at(*node, "validation", "needs data.validation");
    }
  }
  if (const Node* node = root.optional("checkpoint")) {
    config.checkpoint = read_checkpoint_config(*node);
  }
  if (const Node* node = root.optional("log")) config.log = read_log_config(*node);
}

// `task: NAME`, `examples`, `tokenizer`, and the options of the generator, which reads them itself.
TaskDataConfig read_task(const Node& node, const std::string& path) {
  TaskDataConfig task;
  for (const auto& [key, value] : node.as_map()) {
    if (key == "task") {
      task.name = value.as_string();
    } else if (key == "tokenizer") {
      task.tokenizer = value.as_string();
    } else if (key == "examples") {
      task.examples = value.as_int();
      if (task.examples < 1) fail_at(value, path + ".examples", "must be positive");
    } else {
      task.options.set(key, value);
    }
  }
  if (task.name.empty()) fail_at(node, path, "needs the key task");
  task.options.set_origin(node.origin());
  return task;
}

// Shards by their path, or `path:`; or a task.
CorpusConfig read_corpus(const Node& node, const std::string& path, bool weighted) {
  CorpusConfig corpus;
  if (!node.is_map()) {
    corpus.path = node.as_string();
    return corpus;
  }
  Node rest = Node::map();
  rest.set_origin(node.origin());
  for (const auto& [key, value] : node.as_map()) {
    if (key != "weight" || !weighted) {
      rest.set(key, value);
      continue;
    }
    corpus.weight = value.as_double();
    if (!(corpus.weight > 0 && corpus.weight <= 1e9)) {
      fail_at(value, path + ".weight", "must be positive");
    }
  }
  if (rest.find("chat") != nullptr) {
    corpus.chat = read_chat_data(rest, path);
    return corpus;
  }
  if (rest.find("path") == nullptr) {
    corpus.task = read_task(rest, path);
    return corpus;
  }
  NodeReader reader(rest, path);
  corpus.path = reader.text("path");
  reader.finish();
  return corpus;
}

void read_data(const Node& node, DataConfig& data) {
  NodeReader reader(node, "data");
  const Node& train = reader.required("train");
  if (train.is_list()) {
    const Node::List& list = train.as_list();
    if (list.empty()) fail_at(train, "data.train", "an empty list");
    for (size_t i = 0; i < list.size(); ++i) {
      data.train.push_back(read_corpus(list[i], fmt::format("data.train[{}]", i), true));
    }
  } else {
    data.train.push_back(read_corpus(train, "data.train", false));
  }
  if (const Node* validation = reader.optional("validation")) {
    CorpusConfig corpus = read_corpus(*validation, "data.validation", false);
    data.validation = corpus.path;
    data.validation_task = std::move(corpus.task);
    data.validation_chat = std::move(corpus.chat);
    if (data.validation_task && data.validation_task->examples == 0) {
      fail_at(*validation, "data.validation", "needs the key examples");
    }
  }
  if (reader.has("eos_id")) {
    data.eos_id =
        static_cast<int32_t>(reader.integer("eos_id", 0, std::numeric_limits<int32_t>::max()));
  }
  reader.finish();
}

Node corpus_node(const std::optional<TaskDataConfig>& task,
                 const std::optional<ChatDataConfig>& chat, const std::filesystem::path& path) {
  if (chat) return chat_data_node(*chat);
  if (!task) return path.string();
  Node out = Node::Map{{"task", task->name}};
  if (task->examples > 0) out.set("examples", task->examples);
  if (!task->tokenizer.empty()) out.set("tokenizer", task->tokenizer.string());
  for (const auto& [key, value] : task->options.as_map()) out.set(key, value);
  return out;
}

Node data_node(const DataConfig& data) {
  Node train = corpus_node(data.train[0].task, data.train[0].chat, data.train[0].path);
  if (data.train.size() > 1) {
    train = Node::list();
    for (const CorpusConfig& corpus : data.train) {
      Node entry = corpus_node(corpus.task, corpus.chat, corpus.path);
      if (!entry.is_map()) entry = Node::Map{{"path", std::move(entry)}};
      entry.set("weight", corpus.weight);
      train.push(std::move(entry));
    }
  }
  Node out = Node::Map{
      {"train", std::move(train)},
      {"validation", corpus_node(data.validation_task, data.validation_chat, data.validation)}};
  if (data.eos_id) out.set("eos_id", int64_t{*data.eos_id});
  return out;
}

Node recompute_node(const std::vector<std::string>& globs) {
  if (globs.empty()) return "none";
  if (globs == std::vector<std::string>{"*"}) return "all";
  Node list = Node::list();
  for (const std::string& glob : globs) list.push(glob);
  return list;
}

}  // namespace

TrainConfig train_config_from(const Node& root) {
  NodeReader reader(root);
  TrainConfig config;
  config.model = model_spec_from_config(reader.required("model"));
  read_data(reader.required("data"), config.data);
  read_train(reader.required("train"), config);
  if (const Node* lora = reader.optional("lora")) {
    config.lora = read_lora(*lora, parameters(config.model));
  }
  config.optimizer = read_optimizer(reader.required("optimizer"), trained_parameters(config));
  if (config.init.base_width > 0) {
    for (const StackSpec& stack : config.model.stacks) {
      config.optimizer.width_ratios.push_back(config.init.width_ratio(stack.d_model));
    }
  }
  config.schedule = read_schedule(reader.optional("schedule"), config.steps);
  if (const Node* ema = reader.optional("ema")) config.ema = read_ema(*ema);
  if (const Node* node = reader.optional("distributed")) {
    config.distributed = read_distributed(*node);
  }
  if (const Node* node = reader.optional("guards")) config.guards = read_guards(*node);
  read_cadence(reader, config);
  config.recipe = reader.text_or("quantize", "");
  config.output = reader.text("output");
  reader.finish();
  if (const Node* key = root.find("train")->find("cuda_graphs")) check_cuda_graphs(config, *key);
  return config;
}

std::vector<ParameterSpec> trained_parameters(const TrainConfig& config) {
  const std::vector<ParameterSpec> all = parameters(config.model);
  if (!config.lora) return all;
  std::vector<ParameterSpec> out;
  for (const LoraAdapter& adapter : lora_adapters(*config.lora, all)) {
    out.push_back(adapter.down);
    out.push_back(adapter.up);
  }
  return out;
}

PaddingOptions padding_of(const TrainConfig& config) {
  if (!config.model.block || config.model.block->pad == BlockPad::kNone) return {};
  return {config.model.block->length, config.document_mask};
}

void resolve_machine_choices(TrainConfig& config, int64_t ranks_here) {
  const CpuFeatures& cpu = cpu_features();
  config.device = resolve_device(config.device);
  if (config.threads == 0) config.threads = std::max<int64_t>(cpu.cores / ranks_here, 1);
  const bool dot = cpu.avx512_bf16 || cpu.amx_bf16;
  const bool gpu = config.device == DeviceKind::kCuda;
  require(gpu || !config.cuda_graphs, ErrorCode::kRequest,
          "train.cuda_graphs: needs a GPU, and train.device: auto found none");
  if (gpu && config.precision == Precision::kAuto) {
    config.precision = Precision::kBf16;
    spdlog::info("precision auto: bf16, on a GPU");
  }
  if (config.precision == Precision::kBf16 && !dot && !gpu) {
    spdlog::warn("precision bf16 on a processor without bf16 products: correct but slow");
  }
  if (config.precision != Precision::kAuto) return;
  int64_t width = std::numeric_limits<int64_t>::max();
  for (const StackSpec& stack : config.model.stacks) width = std::min(width, stack.d_model);
  const bool narrow = dot && width >= kLeastBf16Width;
  config.precision = narrow ? Precision::kBf16 : Precision::kFp32;
  spdlog::info("precision auto: {}, since {}", narrow ? "bf16" : "fp32",
               !dot     ? std::string("the processor has no bf16 products")
               : narrow ? std::string("the processor has bf16 products")
                        : fmt::format("d_model {} is below {}", width, kLeastBf16Width));
}

Node resolved_config(const Node& root, const TrainConfig& config) {
  static const char* const kPrecisions[] = {"auto", "fp32", "bf16"};
  static const char* const kDevices[] = {"auto", "cpu", "cuda"};
  static const char* const kDecodingLosses[] = {"none", "mse", "contrastive"};
  Node out = Node::Map{
      {"model", *root.find("model")},
      {"data", data_node(config.data)},
      {"train", Node::Map{{"seed", static_cast<int64_t>(config.seed)},
                          {"steps", config.steps},
                          {"context", config.context},
                          {"batch_size", config.batch_size},
                          {"micro_batch", config.micro_batch},
                          {"precision", kPrecisions[static_cast<size_t>(config.precision)]},
                          {"device", kDevices[static_cast<size_t>(config.device)]},
                          {"cuda_graphs", config.cuda_graphs},
                          {"threads", config.threads},
                          {"memory_limit", config.memory_limit},
                          {"document_mask", config.document_mask},
                          {"z_loss", config.z_loss},
                          {"recompute", recompute_node(config.recompute)},
                          {"init", Node::Map{{"std", config.init.deviation},
                                             {"outputs",
                                              config.init.scaled_outputs ? "scaled" : "plain"}}}}},
      {"optimizer", optimizer_node(config.optimizer)},
      {"schedule", schedule_node(config.schedule)},
      {"distributed", to_node(config.distributed)},
      {"guards", to_node(config.guards)}};
  if (config.init.base_width > 0) {
    out.find("train")->set("mup", Node::Map{{"base_width", config.init.base_width}});
  }
  if (config.ema) out.set("ema", ema_node(*config.ema));
  if (config.lora) out.set("lora", lora_node(*config.lora));
  if (config.model.block) {
    const BlockLossOptions& extra = config.block_losses;
    out.find("train")->set(
        "block_losses",
        Node::Map{{"decoding", kDecodingLosses[static_cast<size_t>(extra.decoding)]},
                  {"decoding_weight", extra.decoding_weight},
                  {"auto_encoding_weight", extra.auto_encoding_weight}});
  }
  if (config.data.validates()) {
    out.set("validation",
            Node::Map{{"every", config.validation_every}, {"batches", config.validation_batches}});
  }
  out.set("checkpoint", checkpoint_config_node(config.checkpoint));
  out.set("log", log_config_node(config.log));
  if (!config.recipe.empty()) out.set("quantize", config.recipe.string());
  out.set("output", config.output.string());
  return out;
}

double learning_rate(const TrainConfig& config, int64_t step) {
  return config.optimizer.lr * schedule_factor(config.schedule, config.steps, step);
}

}  // namespace ashlar
