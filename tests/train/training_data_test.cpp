#include <gtest/gtest.h>

#include <cstring>

#include "core/config/config.h"
#include "core/io/json.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/data/families.h"
#include "tests/support/tolerance.h"
#include "tests/train/run_state.h"
#include "train/data.h"
#include "train/run.h"

// Where a run's samples come from: mixtures of corpora, shards of others.

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using test::Fixture;
using test::parameters_of;

TEST(TrainingData, MixturesResumeBitForBit) {
  const Fixture f;
  test::write_shards(f.dir / "second", 5, 9);
  std::string text = f.yaml("mixed");
  const auto train = text.find("train: " + (f.dir / "train").string());
  ASSERT_NE(train, std::string::npos);
  text.replace(train, text.find(',', train) - train,
               fmt::format("train: [{{path: {}, weight: 0.75}}, {{path: {}, weight: 0.25}}]",
                           (f.dir / "train").string(), (f.dir / "second").string()));
  const Node root = parse_yaml(text, "t.yaml");
  run_training(root, {});
  const auto expected = parameters_of(*newest_checkpoint(f.dir / "mixed"));
  fs::remove_all(f.dir / "mixed");
  RunOptions options;
  options.stop_after = 7;
  run_training(root, options);
  options.stop_after = 0;
  options.resume = RunOptions::Resume::kAuto;
  run_training(load_yaml(f.dir / "mixed" / "config.yaml"), options);  // as it was written
  EXPECT_EQ(parameters_of(*newest_checkpoint(f.dir / "mixed")), expected);
  // Other proportions are another order of the data.
  fs::remove_all(f.dir / "mixed");
  text.replace(text.find("weight: 0.75"), 12, "weight: 0.25");
  run_training(parse_yaml(text, "t.yaml"), {});
  EXPECT_NE(parameters_of(*newest_checkpoint(f.dir / "mixed")), expected);
}

TEST(TrainConfig, MistakesInAMixtureNameTheirKey) {
  const Fixture f;
  const std::string path = (f.dir / "train").string();
  test::write_shards(f.dir / "wide", 5, 9, 40);
  const auto refuses = [&](const std::string& train, const std::vector<std::string>& why) {
    std::string text = f.yaml("mixed");
    const size_t at = text.find("train: " + path);
    text.replace(at, text.find(',', at) - at, "train: " + train);
    test::expect_error(ErrorCode::kRequest, why,
                       [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
    EXPECT_FALSE(fs::exists(f.dir / "mixed"));
  };
  refuses("[]", {"t.yaml", "data.train", "empty list"});
  refuses(fmt::format("[{{path: {}, weight: 0}}]", path), {"t.yaml", "data.train[0].weight"});
  refuses(fmt::format("[{}, {{path: {}, wieght: 1}}]", path, path), {"data.train[1].wieght"});
  refuses(fmt::format("[{}, {{path: {}, weight: 0.0001}}]", path, path), {"weight 0.0001"});
  refuses(fmt::format("[{}, {{task: mqar, vocab: 32, length: 16, pairs: 2}}]", path),
          {"different vocabularies"});
  refuses(fmt::format("[{}, {}]", path, (f.dir / "wide").string()), {"40 tokens"});
  refuses(fmt::format("[{}, {}]", path, (f.dir / "gone").string()), {"gone"});
}

TEST(TrainingData, LlmcShardsNeedTheirEos) {
  const Fixture f;
  std::string shard(1024 + 2 * 4000, '\0');
  const int32_t header[] = {20240520, 1, 4000};
  std::memcpy(shard.data(), header, sizeof header);
  for (size_t i = 0; i < 4000; ++i) shard[1024 + 2 * i] = static_cast<char>(i * i % 31);
  test::write_text(f.dir / "llmc.bin", shard);
  std::string text = f.yaml("llmc");
  const size_t data = text.find("data: {"), end = text.find('\n', data);
  const size_t cadence = text.find("validation: {every");
  text.erase(cadence, text.find('\n', cadence) + 1 - cadence);
  const std::string train = "data: {train: " + (f.dir / "llmc.bin").string();
  text.replace(data, end - data, train + "}");
  test::expect_error(ErrorCode::kRequest, {"llmc.bin", "eos_id"},
                     [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
  text.replace(text.find(train), train.size(), train + ", eos_id: 0");
  EXPECT_EQ(run_training(parse_yaml(text, "t.yaml"), {}).last.step, 12);
  shard[1024 + 2 * 3000] = 32;  // not below model.vocab_size
  test::write_text(f.dir / "llmc.bin", shard);
  fs::remove_all(f.dir / "llmc");
  text.replace(text.find("steps: 12"), 9, "steps: 99");
  test::expect_error(ErrorCode::kData, {"llmc.bin", "token 32"},
                     [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
}

constexpr const char* kChatTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

/// A folder with a tokenizer that has ChatML's tokens and its template, and ten conversations.
struct ChatFixture {
  test::TempDir dir;
  ChatFixture() {
    fs::create_directories(dir / "model");
    test::write_text(dir / "model/tokenizer.json", write_json(test_families::shape_of("smollm")));
    test::write_text(
        dir / "model/tokenizer_config.json",
        write_json(Node::Map{{"eos_token", "<|im_end|>"}, {"chat_template", kChatTemplate}}));
    std::string lines;
    for (int i = 0; i < 10; ++i) {
      const std::string question(static_cast<size_t>(1 + i % 3), static_cast<char>('a' + i));
      lines += fmt::format(
          R"({{"messages": [{{"role": "user", "content": "{}"}}, {{"role": "assistant", "content": "{}"}}]}})",
          question, static_cast<char>('A' + i));
      lines += '\n';
    }
    test::write_text(dir / "chat.jsonl", lines);
  }
  std::string yaml(const std::string& run, const std::string& more, const std::string& validation,
                   const char* model = test::kDecoderModel) const {
    std::string text = test::train_yaml(dir.path(), dir / run, model);
    const auto replace = [&](const std::string& from, const std::string& to) {
      const size_t at = text.find(from);
      text.replace(at, from.size(), to);
    };
    replace("vocab_size: 32", "vocab_size: 602");
    const size_t data = text.find("data: {"), end = text.find('\n', data);
    const std::string chat = fmt::format("{{chat: {}, tokenizer: {}", (dir / "chat.jsonl").string(),
                                         (dir / "model").string());
    text.replace(
        data, end - data,
        fmt::format("data:\n  train: {}{}}}\n  validation: {}{}}}", chat, more, chat, validation));
    return text;
  }
};

// Chats of both architectures: only answers and their ends are targets; killed and resumed from the
// configuration as it was written, a run ends in the same bits; its folder carries the template.
TEST(ChatData, TrainsOnAnswersAndResumes) {
  const ChatFixture f;
  for (const char* model : {test::kDecoderModel, test::kBlockModel}) {
    const Node root = parse_yaml(f.yaml("run", "", "", model), "t.yaml");
    const RunResult whole = run_training(root, {});
    EXPECT_EQ(whole.tokens, 12 * 4 * 2) << "a letter and its end";
    EXPECT_EQ(whole.validation->tokens, 4 * 2) << "2 batches of 2 conversations";
    EXPECT_EQ(test::read_text(f.dir / "run/chat_template.jinja"), kChatTemplate);
    EXPECT_EQ(load_tokenizer(f.dir / "run/tokenizer.json")->vocab_size(), 602);
    const auto expected = parameters_of(*newest_checkpoint(f.dir / "run"));
    fs::remove_all(f.dir / "run");
    RunOptions options;
    options.stop_after = 7;
    run_training(root, options);
    options.stop_after = 0;
    options.resume = RunOptions::Resume::kAuto;
    run_training(load_yaml(f.dir / "run" / "config.yaml"), options);
    EXPECT_EQ(parameters_of(*newest_checkpoint(f.dir / "run")), expected);
    fs::remove_all(f.dir / "run");
  }
}

// Under a document mask a packed conversation is the same as alone: one epoch in one batch gives
// the same loss and gradient, to rounding.
TEST(ChatData, PackedConversationsDoNotSeeEachOther) {
  const ChatFixture f;
  const auto first_step = [&](const char* run, const std::string& more, int64_t samples) {
    Node root = parse_yaml(f.yaml(run, more, ""), "t.yaml");
    apply_overrides(root, {"train.document_mask=true", "train.context=64",
                           "model.context_length=64", "train.steps=1", "train.micro_batch=1",
                           "schedule.warmup_steps=0", fmt::format("train.batch_size={}", samples)});
    return run_training(root, {}).last;
  };
  const StepResult alone = first_step("alone", "", 10);
  TrainConfig config =
      train_config_from(parse_yaml(f.yaml("packed", ", pack: true", ""), "t.yaml"));
  config.document_mask = true;
  config.context = 64;
  const int64_t packed = TrainingData::train(config)->samples().windows();
  EXPECT_LT(packed, 10);
  const StepResult together = first_step("packed", ", pack: true", packed);
  // Sums over 20 targets through the network's depth.
  EXPECT_NEAR(together.loss, alone.loss, test::reordered<float>(20 * 8, alone.loss).absolute);
  EXPECT_NEAR(together.grad_norm, alone.grad_norm,
              test::reordered<float>(20 * 32, alone.grad_norm).absolute);
}

TEST(ChatData, MistakesNameTheirKeyOrLine) {
  const ChatFixture f;
  const auto refuses = [&](const std::string& more, const std::vector<std::string>& why,
                           const std::string& validation = "",
                           const char* model = test::kDecoderModel) {
    test::expect_error(ErrorCode::kRequest, why, [&] {
      run_training(parse_yaml(f.yaml("run", more, validation, model), "t.yaml"), {});
    });
    EXPECT_FALSE(fs::exists(f.dir / "run"));
  };
  refuses(", los: all", {"t.yaml", "data.train.los", "unknown key"});
  refuses(", loss: user", {"data.train.loss", "answers"});
  refuses(", template: alpaca", {"t.yaml", "data.train.template", "'alpaca'", "chatml"});
  refuses(", template: llama3", {"<|eot_id|>"});
  refuses(", pack: true", {"data.train.pack", "document_mask"});
  refuses("", {"data.validation.pack"}, ", pack: true");
  refuses(", pack: true", {"data.train.pack", "two conversations"}, "", test::kBlockModel);
  fs::remove(f.dir / "model/tokenizer_config.json");
  refuses("", {"no chat template", "template"});
}

}  // namespace
}  // namespace ashlar
