#include "train/trainer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/io/json.h"
#include "data/shards/batch_source.h"
#include "tests/support/files.h"
#include "tests/support/tolerance.h"
#include "tests/train/run_state.h"
#include "train/optim/optimizer.h"
#include "train/run.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

using test::Fixture;
using test::parameters_of;

TEST(Schedule, WarmsUpLinearlyAndFallsAsACosine) {
  TrainConfig config;
  config.steps = 110;
  config.optimizer.lr = 2.0;
  config.schedule.warmup_steps = 10;
  config.schedule.final_ratio = 0.1;
  EXPECT_DOUBLE_EQ(learning_rate(config, 1), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(config, 10), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 60), 1.1);  // half way: the mean of both ends
  EXPECT_DOUBLE_EQ(learning_rate(config, 35), 2.0 * (0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2));
  EXPECT_DOUBLE_EQ(learning_rate(config, 110), 0.2);
  config.schedule.warmup_steps = 0;
  EXPECT_LT(learning_rate(config, 1), 2.0);
  config.schedule.warmup_steps = 110;
  EXPECT_DOUBLE_EQ(learning_rate(config, 110), 2.0);
}

// Padding, a document mask, z-loss and another initialisation go through a whole run.
TEST(Run, PaddedDocumentsUnderAMaskTrainAndValidate) {
  const Fixture f;
  std::string yaml = f.yaml("padded", test::kBlockModel);
  const auto replace = [&](const std::string& from, const std::string& to) {
    const size_t at = yaml.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    yaml.replace(at, from.size(), to);
  };
  replace("steps: 12",
          "document_mask: true, z_loss: 1.0e-4, block_losses: {decoding: mse, "
          "auto_encoding_weight: 0.5}, init: {std: 0.01275, outputs: plain}, "
          "steps: 12");
  test::expect_error(ErrorCode::kRequest,
                     {"train.document_mask", "unless model.block.pad is random"},
                     [&] { train_config_from(parse_yaml(yaml, "c.yaml")); });
  replace("prefix_length: 2", "prefix_length: 2, pad: random");
  const Node root = parse_yaml(yaml, "c.yaml");
  const RunResult result = run_training(root, {});
  ASSERT_TRUE(result.validation.has_value());
  const auto& by_position = result.validation->loss_by_position;
  ASSERT_EQ(by_position.size(), 4u);
  // 32 targets a sample make 8 of every position.
  double mean = 0;
  for (double loss : by_position) mean += loss / 4;
  EXPECT_NEAR(mean, result.validation->loss, test::reordered<double>(64, mean).absolute);
  EXPECT_LT(result.validation->loss, std::log(32.0));
  const TrainConfig again = train_config_from(load_yaml(f.dir / "padded" / "config.yaml"));
  EXPECT_TRUE(again.document_mask);
  EXPECT_EQ(again.z_loss, 1e-4);
  EXPECT_EQ(again.block_losses, (BlockLossOptions{BlockDecodingLoss::kMse, 1.0, 0.5}));
  EXPECT_EQ(again.init, (InitSpec{0.01275, false, 0}));
  EXPECT_EQ(again.model.block->pad, BlockPad::kRandom);
}

// Algorithm 2 of arXiv 1711.05101 written out in double.
TEST(AdamW, EqualsADoubleVersionAndDecaysOnlyMatrices) {
  constexpr int64_t kElements = 37, kDecayed = 20;
  OptimizerConfig config;
  config.weight_decay = 0.2;
  config.eps = 1e-3;
  const std::vector<ParameterSpec> specs = {{"m", {4, 5}, ParameterRole::kUp},
                                            {"b", {kElements - kDecayed}, ParameterRole::kUpBias}};
  const std::vector<std::pair<size_t, int64_t>> sizes = {{0, kDecayed}, {1, kElements - kDecayed}};
  const UnitLayout layout = make_unit_layout("unit", sizes, 1);
  const at::Tensor all = at::zeros({layout.size}, at::kFloat), all_gradients = at::zeros_like(all);
  const std::vector<UnitSlice> units = {{&layout, {0, layout.size}, all, all_gradients}};
  const auto optimizer = make_optimizer(config, specs, units);
  const auto at_of = [&](int64_t i) {
    return i < kDecayed ? i : layout.parts[1].offset + i - kDecayed;
  };
  float *values = all.data_ptr<float>(), *gradients = all_gradients.data_ptr<float>();
  const Philox random(4);
  std::vector<double> x, m(kElements), v(kElements);
  for (int64_t i = 0; i < kElements; ++i) {
    x.push_back(random.normal(static_cast<uint64_t>(i)));
    values[at_of(i)] = static_cast<float>(x.back());
    x.back() = static_cast<double>(static_cast<float>(x.back()));
  }
  for (int64_t step = 1; step <= 5; ++step) {
    const double lr = 0.05 * static_cast<double>(step);
    for (int64_t i = 0; i < kElements; ++i) {
      const auto n = static_cast<size_t>(i);
      const auto g = static_cast<float>(random.normal(static_cast<uint64_t>(1000 * step + i)));
      gradients[at_of(i)] = g;
      m[n] = 0.9 * m[n] + 0.1 * static_cast<double>(g);
      v[n] = 0.95 * v[n] + 0.05 * static_cast<double>(g) * static_cast<double>(g);
      const double mean = m[n] / (1 - std::pow(0.9, step));
      const double square = v[n] / (1 - std::pow(0.95, step));
      if (i < kDecayed) x[n] -= lr * 0.2 * x[n];
      x[n] -= lr * mean / (std::sqrt(square) + 1e-3);
    }
    optimizer->step(units, {step, lr, {}});
    std::vector<float> actual;
    for (int64_t i = 0; i < kElements; ++i) actual.push_back(values[at_of(i)]);
    EXPECT_TRUE(
        test::within(actual, x, test::reordered<float>(12.0 * static_cast<double>(step), 4)));
  }
}

TEST(Trainer, LearnsAndReportsBitsPerByte) {
  const Fixture f;
  for (const char* model : {test::kDecoderModel, test::kBlockModel}) {
    const std::string name = model == test::kDecoderModel ? "decoder" : "block";
    Node root = parse_yaml(f.yaml(name, model), "t.yaml");
    apply_overrides(root, {"train.steps=80", "checkpoint.every=30", "checkpoint.keep=2"});
    const RunResult r = run_training(root, {});
    EXPECT_EQ(r.last.step, 80);
    EXPECT_EQ(r.tokens, 80 * 4 * 32);
    EXPECT_LT(r.last.loss, 3.0) << name;  // uniform guessing costs log 32 = 3.47
    ASSERT_TRUE(r.validation.has_value());
    // Documents of 120 tokens and one EOS come from 240 bytes.
    EXPECT_DOUBLE_EQ(r.validation->bits_per_byte.value(),
                     r.validation->loss / std::log(2.0) * 121.0 / 240.0);
    const auto exists = [&](const char* file) { return fs::exists(f.dir / name / file); };
    EXPECT_TRUE(exists("checkpoints/step_00000080/manifest.json"));
    EXPECT_TRUE(exists("checkpoints/step_00000060/manifest.json"));
    EXPECT_FALSE(exists("checkpoints/step_00000030"));
    // The resolved configuration is itself a configuration, and the same one.
    const Node resolved = load_yaml(f.dir / name / "config.yaml");
    EXPECT_EQ(train_config_from(resolved).model, train_config_from(root).model);
    EXPECT_EQ(resolved.find("train")->find("precision")->as_string(), "fp32");
  }
}

TEST(Trainer, SameSeedSameBits) {
  const Fixture f;
  for (const char* run : {"a", "b"}) run_training(parse_yaml(f.yaml(run), "t.yaml"), {});
  EXPECT_EQ(parameters_of(f.dir / "a"), parameters_of(f.dir / "b"));
  Node other = parse_yaml(f.yaml("c"), "t.yaml");
  apply_overrides(other, {"train.seed=4"});
  run_training(other, {});
  EXPECT_NE(parameters_of(f.dir / "a"), parameters_of(f.dir / "c"));
}

// k + m steps in one go = k, stop, resume, m: parameters, optimizer state and metrics.
TEST(Trainer, ResumesBitForBit) {
  const Fixture f;
  for (const char* precision : {"fp32", "bf16"}) {
    for (const char* model : {test::kDecoderModel, test::kBlockModel}) {
      const std::string tag =
          fmt::format("{}{}", precision, model == test::kDecoderModel ? "d" : "b");
      const Node straight = parse_yaml(f.yaml(tag + "1", model, precision), "t.yaml");
      const Node split = parse_yaml(f.yaml(tag + "2", model, precision), "t.yaml");
      run_training(straight, {});
      RunOptions stop;
      stop.stop_after = 7;
      const RunResult first = run_training(split, stop);
      EXPECT_TRUE(first.stopped);
      EXPECT_EQ(first.last.step, 7);
      RunOptions resume;
      resume.resume = RunOptions::Resume::kAuto;
      const RunResult second = run_training(split, resume);
      EXPECT_FALSE(second.stopped);
      EXPECT_NE(second.resumed_from.find("step_00000007"), std::string::npos);
      EXPECT_EQ(parameters_of(f.dir / (tag + "1")), parameters_of(f.dir / (tag + "2"))) << tag;
      const auto losses = [&](const std::string& run) {
        std::vector<std::string> out;
        std::istringstream lines(test::read_text(f.dir / run / "metrics.jsonl"));
        for (std::string line; std::getline(lines, line);) {
          Node node = parse_json(line, "metrics");
          std::erase_if(node.as_map(), [](const auto& e) {
            return e.first == "tokens_per_second" || e.first == "memory_bytes" ||
                   e.first.ends_with("_wait");
          });
          out.push_back(write_json(node));
        }
        return out;
      };
      EXPECT_EQ(losses(tag + "1"), losses(tag + "2")) << tag;
      EXPECT_EQ(losses(tag + "1").size(), 14u);  // 12 steps, 2 validations
      const RunResult nothing = run_training(split, resume);
      EXPECT_EQ(nothing.last.step, 12);
    }
  }
}

TEST(Trainer, MicroBatchesAddUpToTheBatch) {
  const Fixture f;
  for (const int64_t micro : {1, 3, 4}) {
    Node root = parse_yaml(f.yaml(fmt::format("m{}", micro)), "t.yaml");
    apply_overrides(root, {"train.steps=1", fmt::format("train.micro_batch={}", micro),
                           "schedule.warmup_steps=0", "optimizer.eps=1.0", "optimizer.clip=0"});
    run_training(root, {});
  }
  // With eps = 1 one AdamW step is a smooth function of the gradient. Sums over 128 targets and the
  // network's depth in another order.
  const auto whole = parameters_of(f.dir / "m4");
  for (const char* run : {"m1", "m3"}) {
    EXPECT_TRUE(
        test::within(parameters_of(f.dir / run), whole, test::reordered<float>(128 * 4, 1)));
    EXPECT_NE(parameters_of(f.dir / run).size(), 0u);
  }
}

TEST(Trainer, DataOrderDoesNotDependOnBatches) {
  const Fixture f;
  const ShardSet shards(f.dir / "train");
  const BatchSource source(shards, 32, 3);
  const Batch all = source.batch(0, 8);
  for (int64_t row = 0; row < 8; ++row) {
    const Batch one = source.batch(row, 1);
    EXPECT_TRUE(std::equal(one.tokens.begin(), one.tokens.end(), all.tokens.begin() + row * 32));
    EXPECT_TRUE(std::equal(one.targets.begin(), one.targets.end(), all.targets.begin() + row * 32));
  }
}

TEST(Trainer, ANonFiniteLossStopsTheRun) {
  const Fixture f;
  Node root = parse_yaml(f.yaml("nan"), "t.yaml");
  apply_overrides(root, {"optimizer.lr=100", "optimizer.clip=0", "schedule.warmup_steps=0",
                         "train.steps=400", "train.precision=fp32", "optimizer.weight_decay=10"});
  test::expect_error(ErrorCode::kData, {"step ", "lower optimizer.lr"},
                     [&] { run_training(root, {}); });
}

TEST(Run, FoldersInTheWayAreRefused) {
  const Fixture f;
  const Node root = parse_yaml(f.yaml("run"), "t.yaml");
  run_training(root, {});
  test::expect_error(ErrorCode::kRequest, {"exists already", "--resume auto"},
                     [&] { run_training(root, {}); });
  Node other = parse_yaml(f.yaml("run"), "t.yaml");
  RunOptions resume;
  resume.resume = RunOptions::Resume::kAuto;
  apply_overrides(other, {"model.decoder.d_model=16"});
  test::expect_error(ErrorCode::kRequest, {"another model"}, [&] { run_training(other, resume); });
  other = parse_yaml(f.yaml("run"), "t.yaml");
  apply_overrides(other, {"train.batch_size=8"});
  test::expect_error(ErrorCode::kRequest, {"train.batch_size"},
                     [&] { run_training(other, resume); });
  other = parse_yaml(f.yaml("run"), "t.yaml");
  apply_overrides(other, {"train.context=16"});
  test::expect_error(ErrorCode::kRequest, {"train.context"}, [&] { run_training(other, resume); });
  resume.resume = RunOptions::Resume::kFrom;
  resume.checkpoint = f.dir / "nowhere";
  test::expect_error(ErrorCode::kRequest, {"nowhere"}, [&] { run_training(root, resume); });
}

TEST(Run, DataThatDoesNotFitIsRefused) {
  const Fixture f;
  test::write_shards(f.dir / "wide", 3, 1, 40);
  const auto refuses = [&](const std::vector<std::string>& overrides,
                           const std::vector<std::string>& fragments) {
    Node root = parse_yaml(f.yaml("refused"), "t.yaml");
    apply_overrides(root, overrides);
    test::expect_error(ErrorCode::kRequest, fragments, [&] { run_training(root, {}); });
    EXPECT_FALSE(fs::exists(f.dir / "refused"));
  };
  refuses({"data.train=" + (f.dir / "wide").string()}, {"40 tokens", "model.vocab_size = 32"});
  refuses({"data.train=" + (f.dir / "none").string()}, {"none"});
}

// A generated task instead of shards, on both architectures; killed and resumed it gives the same.
TEST(Run, TrainsOnAGeneratedTask) {
  const Fixture f;
  for (const char* model : {test::kDecoderModel, test::kBlockModel}) {
    std::string text = test::train_yaml(f.dir.path(), f.dir / "task", model);
    const size_t data = text.find("data: {"), end = text.find('\n', data);
    text.replace(data, end - data,
                 "data:\n  train: {task: mqar, vocab: 32, length: 16, pairs: 2, seed: 1}\n"
                 "  validation: {task: mqar, vocab: 32, length: 16, pairs: 2, examples: 8}");
    const Node root = parse_yaml(text, "t.yaml");
    const RunResult whole = run_training(root, {});
    EXPECT_EQ(whole.tokens, 12 * 4 * 2) << "answers";
    EXPECT_EQ(whole.validation->tokens, 4 * 2) << "2 batches of 2 examples";
    EXPECT_FALSE(whole.validation->bits_per_byte.has_value());
    const auto expected = parameters_of(*newest_checkpoint(f.dir / "task"));
    fs::remove_all(f.dir / "task");
    RunOptions options;
    options.stop_after = 7;
    run_training(root, options);
    options.stop_after = 0;
    options.resume = RunOptions::Resume::kAuto;
    // What was written is what was read.
    run_training(load_yaml(f.dir / "task" / "config.yaml"), options);
    EXPECT_EQ(parameters_of(*newest_checkpoint(f.dir / "task")), expected);
    fs::remove_all(f.dir / "task");
  }
}

TEST(TrainConfig, MistakesInAGeneratedTaskNameTheirKey) {
  const Fixture f;
  const auto refuses = [&](const std::string& overrides, const std::vector<std::string>& why) {
    std::string text = f.yaml("task");
    const size_t data = text.find("data: {"), end = text.find('\n', data);
    text.replace(data, end - data, "data: {" + overrides + "}");
    if (overrides.find("validation:") == std::string::npos) {
      const size_t cadence = text.find("validation: {every");
      text.erase(cadence, text.find('\n', cadence) + 1 - cadence);
    }
    test::expect_error(ErrorCode::kRequest, why,
                       [&] { run_training(parse_yaml(text, "t.yaml"), {}); });
    EXPECT_FALSE(fs::exists(f.dir / "task"));
  };
  const std::string good = "train: {task: mqar, vocab: 32, length: 16, pairs: 2}";
  refuses("train: {length: 16}", {"t.yaml", "data.train", "task"});
  refuses("train: {task: recall}", {"recall", "mqar"});
  refuses("train: {task: mqar, lenght: 16}", {"lenght"});
  refuses("train: {task: mqar, vocab: 32, length: 64, pairs: 2}", {"64 tokens", "context of 32"});
  refuses("train: {task: mqar, length: 16, pairs: 2}", {"8192 tokens", "model.vocab_size = 32"});
  refuses(good + ", validation: {task: mqar, vocab: 32, length: 16, pairs: 2}",
          {"data.validation", "examples"});
  refuses(good + ", validation: {task: mqar, examples: 0}", {"examples", "positive"});
}

TEST(TrainConfig, MistakesNameFileLineAndKey) {
  const Fixture f;
  const std::string good = f.yaml("x");
  const auto refuses = [&](const std::string& from, const std::string& to,
                           const std::vector<std::string>& fragments) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    test::expect_error(ErrorCode::kRequest, fragments,
                       [&] { train_config_from(parse_yaml(text, "t.yaml")); });
  };
  refuses("seed: 3", "sead: 3", {"t.yaml:8: train.sead: unknown key"});
  refuses("steps: 12, ", "", {"t.yaml:8: train.steps"});
  refuses("lr: 1.0e-2", "lr: fast", {"t.yaml:9: optimizer.lr"});
  refuses("[0.9, 0.95]", "[0.9, 1.0]", {"t.yaml:9", "optimizer.betas", "not in [0, 1)"});
  refuses("micro_batch: 2", "micro_batch: 8", {"t.yaml:8: train.micro_batch", "between 1 and 4"});
  refuses("context: 32", "context: 33", {"t.yaml:8: train.context", "exceeds"});
  refuses("kind: cosine", "kind: step", {"t.yaml:10: schedule.kind", "'step' is not one of"});
  refuses("validation: {every", "validate: {every", {"t.yaml:11: validate: unknown key"});
  refuses("output:", "result:", {"output"});
}

}  // namespace
}  // namespace ashlar
