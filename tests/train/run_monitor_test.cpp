#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "core/base/cpu.h"
#include "tests/support/free_port.h"
#include "tests/train/run_state.h"
#include "train/peak.h"
#include "train/run.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

Node with(const std::string& yaml, const std::vector<std::string>& overrides) {
  Node root = parse_yaml(yaml, "c.yaml");
  apply_overrides(root, overrides);
  return root;
}

TEST(RunConfig, CheckpointAndLogAreReadStrictly) {
  const test::Fixture f;
  const TrainConfig config =
      train_config_from(with(f.yaml("run"), {"checkpoint.keep_every=10", "checkpoint.async=false",
                                             "log.prometheus=\"127.0.0.1:9400\""}));
  EXPECT_EQ(config.checkpoint.every, 5);
  EXPECT_EQ(config.checkpoint.keep, 3);
  EXPECT_EQ(config.checkpoint.keep_every, 10);
  EXPECT_FALSE(config.checkpoint.asynchronous);
  EXPECT_EQ(config.log.prometheus, "127.0.0.1:9400");
  const Node resolved = resolved_config(with(f.yaml("run"), {}), config);
  EXPECT_EQ(resolved.find("checkpoint")->find("keep_every")->as_int(), 10);
  EXPECT_FALSE(resolved.find("checkpoint")->find("async")->as_bool());
  EXPECT_EQ(resolved.find("log")->find("prometheus")->as_string(), "127.0.0.1:9400");
  const std::vector<std::pair<std::string, std::vector<std::string>>> wrong = {
      {"checkpoint.keep_every=7", {"checkpoint.keep_every", "no multiple", "every = 5"}},
      {"checkpoint.keep=0", {"checkpoint.keep"}},
      {"checkpoint.sync=true", {"checkpoint.sync"}},
      {"log.prometheus=9400x", {"log.prometheus", "127.0.0.1:9400"}},
      {"log.every=0", {"log.every"}}};
  for (const auto& [override_text, message] : wrong) {
    test::expect_error(ErrorCode::kRequest, message,
                       [&] { train_config_from(with(f.yaml("run"), {override_text})); });
  }
}

TEST(RunConfig, EitherWayOfSavingGivesTheSameCheckpoints) {
  const test::Fixture f;
  run_training(with(f.yaml("beside"), {}), {});
  run_training(with(f.yaml("inline"), {"checkpoint.async=false"}), {});
  for (const char* step : {"step_00000005", "step_00000010", "step_00000012"}) {
    const auto at = [&](const char* run) {
      return f.dir / (std::string(run) + "/checkpoints/") / step;
    };
    EXPECT_EQ(test::parameters_of(at("beside")), test::parameters_of(at("inline")));
  }
}

// A disk that takes no checkpoint does not stop the training, but the run has not ended well.
TEST(RunConfig, ALastCheckpointThatFailsIsAnErrorAtTheEnd) {
  const test::Fixture f;
  fs::create_directories(f.dir / "run");
  test::write_text(f.dir / "run/checkpoints", "in the way");
  RunOptions options;
  options.resume = RunOptions::Resume::kAuto;
  test::expect_error(ErrorCode::kIo, {"last checkpoint could not be written", "checkpoints"},
                     [&] { run_training(with(f.yaml("run"), {}), options); });
  const std::string metrics = test::read_text(f.dir / "run/metrics.jsonl");
  EXPECT_NE(metrics.find("\"step\":12,"), std::string::npos) << metrics;
}

TEST(RunMonitor, MetricsAreServedWhileTheRunLives) {
  const test::Fixture f;
  const int port = static_cast<int>(test::free_port());
  std::atomic<bool> ended{false};
  std::string seen;
  std::thread reader([&] {
    httplib::Client client("127.0.0.1", port);
    while (!ended) {
      const auto answer = client.Get("/metrics");
      // Everything is there once a checkpoint after a validation has been written.
      if (answer && answer->body.find("ashlar_checkpoint_step{") != std::string::npos &&
          answer->body.find("ashlar_validation_loss_nats{") != std::string::npos) {
        seen = answer->body;
      }
      std::this_thread::sleep_for(1ms);
    }
  });
  run_training(with(f.yaml("run"),
                    {fmt::format("log.prometheus=\"127.0.0.1:{}\"", port), "train.steps=200"}),
               {});
  ended = true;
  reader.join();
  for (const char* part :
       {"# TYPE ashlar_train_step_total counter", "# TYPE ashlar_train_loss_nats",
        "ashlar_train_tokens_total{run=", "ashlar_checkpoints_total{run="}) {
    EXPECT_NE(seen.find(part), std::string::npos) << part << " is missing in: " << seen;
  }
}

TEST(Peak, IsMeasuredWithinItsTime) {
  const auto start = std::chrono::steady_clock::now();
  const MatmulPeak peak = measure_matmul_peak(false);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);  // loosely: others use this machine
  // Between one operation per microsecond and core, and 2¹⁰ per cycle and core at 10 GHz.
  EXPECT_GT(peak.flops_per_second, 1e6 * cpu_features().cores);
  EXPECT_LT(peak.flops_per_second, 1e13 * cpu_features().cores);
  EXPECT_GE(peak.size, 128);
  EXPECT_NE(peak.description.find("fp32 products of"), std::string::npos) << peak.description;
  EXPECT_NE(measure_matmul_peak(true).description.find("bf16"), std::string::npos);
}

}  // namespace
}  // namespace ashlar
