// Times whole training steps, on the CPU or (--device cuda) on a GPU (batch from the shards,
// forward, backward, clipping, fused AdamW) of the Trainer at 8 samples of 512 tokens, after
// checking the model against the slow reference and the first step's loss against double precision.
// bench/train_step.py runs the same shapes in plain PyTorch beside it.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>

#include "bench/rank_steps.h"
#include "bench/status.h"
#include "bench/train_shapes.h"
#include "core/base/cpu.h"
#include "core/base/error.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "data/shards/batch_source.h"
#include "models/model.h"
#include "models/spec/cost.h"
#include "tests/reference/reference_model.h"
#include "train/device.h"
#include "train/trainer.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;

constexpr double kEnlarged = 4;

double eps_of(Precision precision) { return precision == Precision::kBf16 ? 0x1p-8 : 0x1p-23; }

/// Longest chain of roundings from a token to its log-probability: every sum on the way.
double chain(const ModelSpec& spec, int64_t context) {
  double terms = static_cast<double>(spec.vocab_size);
  for (const StackSpec& stack : spec.stacks) {
    for (const LayerSpec& layer : stack.layers) {
      terms += static_cast<double>(4 * stack.d_model + layer.ffn.d_ff + context);
    }
  }
  return terms;
}

/// Allowed error of the mean loss in the timed precision: one rounding per norm, product and sum of
/// the residual stream, eight a layer, of random sign.
double loss_bound(const ModelSpec& spec, Precision precision, double loss) {
  double roundings = 2;
  for (const StackSpec& stack : spec.stacks) {
    roundings += 8 * static_cast<double>(stack.layers.size());
  }
  return std::sqrt(roundings) * eps_of(precision) * loss;
}

at::Tensor ids_of(const std::vector<int32_t>& ids, std::vector<int64_t> shape) {
  return at::from_blob(const_cast<int32_t*>(ids.data()), shape, at::kInt).to(at::kLong);
}

/// One model, checked and ready to be timed.
class Subject {
 public:
  Subject(const Shape& shape, Precision precision, int threads, DeviceKind device)
      : shape_(shape),
        precision_(precision),
        config_(train_config(shape, precision, threads, device)),
        shards_(shape),
        data_(shards_.folder()),
        source_(data_, shape.context, kSeed),
        trainer_(config_, *data_.eos_id()) {}

  void check() {
    ParameterSet weights = init_parameters(config_.model, kSeed, at::kDouble);
    expected_ = exact_loss(weights, shape_.batch);
    // Fresh weights are so small that any network predicts next to nothing: enlarged ones tell
    // networks apart.
    for (at::Tensor& tensor : weights.tensors) tensor.mul_(kEnlarged);
    check_scores(weights);
    enlarged_loss_ = exact_loss(weights, 1);
    first_loss_ = trainer_.step(source_).loss;
    const double bound = loss_bound(config_.model, precision_, expected_);
    require(std::abs(first_loss_ - expected_) <= bound, ErrorCode::kInternal,
            "{}: the first step's loss is {}, in double precision {} ± {}", shape_.name,
            first_loss_, expected_, bound);
  }

  /// Milliseconds of each of `steps` steps.
  std::vector<double> time(int64_t steps) {
    std::vector<double> ms;
    for (int64_t i = 0; i < steps; ++i) {
      const auto start = std::chrono::steady_clock::now();
      trainer_.step(source_);
      const std::chrono::duration<double, std::milli> took =
          std::chrono::steady_clock::now() - start;
      ms.push_back(took.count());
    }
    return ms;
  }

  /// Initial weights and first batch for another implementation of the same network, and the loss
  /// it must reach on the first sample with enlarged weights.
  void dump(const fs::path& path) const;

  Node to_node(const std::vector<double>& ms) const {
    Node times = Node::list();
    for (double value : ms) times.push(value);
    return Node::Map{{"shape", shape_.name},
                     {"precision", precision_ == Precision::kBf16 ? "bf16" : "fp32"},
                     {"threads", config_.threads},
                     {"parameters", trainer_.parameter_count()},
                     {"batch", shape_.batch},
                     {"context", shape_.context},
                     {"loss", first_loss_},
                     {"loss_in_double", expected_},
                     {"step_ms", std::move(times)}};
  }
  /// Model FLOPs utilization of the median step (arXiv 2204.02311, appendix B).
  std::string mfu_line(std::vector<double> ms, double peak_tflops) const {
    std::sort(ms.begin(), ms.end());
    const double flops = 3 * training_flops(config_.model, shape_.context).total() *
                         static_cast<double>(shape_.batch * shape_.context);
    return fmt::format("MFU of {}: {:.1f} % of {} TFLOP/s\n", shape_.name,
                       flops / (ms[ms.size() / 2] * 1e-3) / (peak_tflops * 1e12) * 100,
                       peak_tflops);
  }
  std::string row(std::vector<double> ms) const {
    std::sort(ms.begin(), ms.end());
    const double median = ms[ms.size() / 2];
    return fmt::format("| {} | {} | {} | {} | {:.1f} | {:.1f} | {:.0f} |\n", shape_.name,
                       precision_ == Precision::kBf16 ? "bf16" : "fp32", trainer_.parameter_count(),
                       config_.threads, median, ms.front(),
                       1e3 * static_cast<double>(shape_.batch * shape_.context) / median);
  }

 private:
  ForwardOptions options(at::ScalarType compute) const { return {*data_.eos_id(), compute}; }

  // A short text by the slow loops of tests/reference and by the model, both in double precision.
  void check_scores(const ParameterSet& set) const {
    std::vector<int32_t> tokens(17);
    data_.read(0, tokens);
    reference::Weights weights;
    for (size_t i = 0; i < set.specs.size(); ++i) {
      const double* first = set.tensors[i].data_ptr<double>();
      weights[set.specs[i].name].assign(first, first + set.specs[i].numel());
    }
    const std::vector<int64_t> text(tokens.begin(), tokens.end());
    const auto expected =
        reference::log_probabilities(config_.model, weights, text, *data_.eos_id());
    const at::Tensor ids = ids_of(tokens, {1, static_cast<int64_t>(tokens.size())});
    const at::Tensor actual =
        Model(config_.model).score(set, ids, options(at::kDouble)).contiguous();
    for (size_t i = 0; i < expected.size(); ++i) {
      const double value = actual.data_ptr<double>()[i];
      const double bound =
          2 * chain(config_.model, shape_.context) * 0x1p-52 * std::abs(expected[i]);
      require(std::abs(value - expected[i]) <= bound, ErrorCode::kInternal,
              "{}: log p of token {} is {}, the reference is {} ± {}", shape_.name, i, value,
              expected[i], bound);
    }
  }

  // Mean loss of the first `rows` samples in double precision.
  double exact_loss(const ParameterSet& set, int64_t rows) const {
    const at::NoGradGuard no_grad;
    const Batch batch = source_.batch(0, rows);
    const std::vector<int64_t> shape = {rows, shape_.context};
    const at::Device device = config_.device == DeviceKind::kCuda ? at::kCUDA : at::kCPU;
    const at::Tensor tokens = ids_of(batch.tokens, shape).to(device);
    const at::Tensor targets = ids_of(batch.targets, shape).to(device);
    const at::Tensor ones = at::ones(shape, at::TensorOptions(at::kFloat).device(device));
    ParameterSet there = set;
    for (at::Tensor& tensor : there.tensors) tensor = tensor.to(device);
    return Model(config_.model)
               .loss(there, tokens, targets, ones, options(at::kDouble))
               .item<double>() /
           static_cast<double>(rows * shape_.context);
  }

  Shape shape_;
  Precision precision_;
  TrainConfig config_;
  RandomShards shards_;
  ShardSet data_;
  BatchSource source_;
  Trainer trainer_;
  double first_loss_ = 0, expected_ = 0, enlarged_loss_ = 0;
};

void Subject::dump(const fs::path& path) const {
  const ParameterSet weights = init_parameters(config_.model, kSeed);
  const Batch batch = source_.batch(0, shape_.batch);
  std::vector<TensorInfo> infos = {{"tokens", DType::kI32, {shape_.batch, shape_.context}, 0, 0},
                                   {"targets", DType::kI32, {shape_.batch, shape_.context}, 0, 0}};
  std::map<std::string, std::span<const std::byte>> bytes = {
      {"tokens", std::as_bytes(std::span(batch.tokens))},
      {"targets", std::as_bytes(std::span(batch.targets))}};
  for (size_t i = 0; i < weights.specs.size(); ++i) {
    const ParameterSpec& p = weights.specs[i];
    infos.push_back({p.name, DType::kF32, p.shape, 0, 0});
    bytes[p.name] = std::as_bytes(
        std::span(weights.tensors[i].data_ptr<float>(), static_cast<size_t>(p.numel())));
  }
  SafetensorsWriter writer(path, infos,
                           {{"model", shape_.model},
                            {"eos_id", fmt::format("{}", *data_.eos_id())},
                            {"enlarged", fmt::format("{}", kEnlarged)},
                            {"enlarged_loss", fmt::format("{:.17g}", enlarged_loss_)}});
  for (const TensorInfo& info : writer.layout()) writer.write_next(bytes.at(info.name));
  writer.commit();
}

struct Options {
  std::string shape, precision, device = "cpu";
  double peak_tflops = 0;
  int threads = 0;
  int64_t steps = 5;
  std::string dump;
  bool on_demand = false, json = false;
  RankOptions ranks;
};

// A round of steps for every line that comes in, one line of JSON for each, so that another
// program can take turns with this one.
void serve(Subject& subject, int64_t steps) {
  std::cout << write_json(subject.to_node({})) << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << write_json(subject.to_node(subject.time(steps))) << std::endl;
  }
}

void run_ranks(const Options& o, const std::vector<std::string>& arguments) {
  RankOptions ranks = o.ranks;
  if (!o.shape.empty()) ranks.shape = o.shape;
  ranks.precision = o.precision == "bf16" ? Precision::kBf16 : Precision::kFp32;
  ranks.threads = o.threads;
  ranks.steps = o.steps;
  ranks.json = o.json;
  measure_ranks(ranks, arguments);
}

void run(const Options& o) {
  std::vector<Precision> precisions = {Precision::kFp32};
  const CpuFeatures& cpu = cpu_features();
  if (cpu.avx512_bf16 || cpu.amx_bf16) precisions.push_back(Precision::kBf16);
  if (!o.precision.empty()) {
    precisions = {o.precision == "bf16" ? Precision::kBf16 : Precision::kFp32};
  }
  const DeviceKind device = o.device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  resolve_device(device);
  if (device == DeviceKind::kCuda) {
    use_cuda_device(0);
    if (o.precision.empty()) precisions = {Precision::kBf16};
  }
  Node results = Node::list();
  std::string table =
      "| shape | precision | parameters | threads | ms/step (median) | best | tokens/s |\n"
      "|---|---|---|---|---|---|---|\n";
  bool known = false;
  for (const Shape& shape : device == DeviceKind::kCuda ? gpu_shapes() : shapes()) {
    if (!o.shape.empty() && shape.name != o.shape) continue;
    known = true;
    for (Precision precision : precisions) {
      Subject subject(shape, precision, o.threads > 0 ? o.threads : cpu.cores, device);
      subject.check();
      if (!o.dump.empty()) subject.dump(o.dump);
      if (o.on_demand) return serve(subject, o.steps);
      const auto ms = subject.time(o.steps);
      results.push(subject.to_node(ms));
      table += subject.row(ms);
      if (o.peak_tflops > 0) table += subject.mfu_line(ms, o.peak_tflops);
    }
  }
  require(known, ErrorCode::kRequest, "--shape {}: no such shape", o.shape);
  std::cout << (o.json ? write_json(results, 2) + "\n" : table);
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  CLI::App app("Times whole training steps; checks the model first");
  ashlar::Options o;
  app.add_option("--shape", o.shape,
                 "decoder-7M, decoder-30M or block-30M; on a GPU decoder-124M,\n"
                 "cla2-124M or block-124M (default: all)");
  app.add_option("--precision", o.precision, "fp32 or bf16 (default: what the processor has)")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--device", o.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--peak-tflops", o.peak_tflops, "Peak of the data sheet, for MFU")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", o.threads, "Threads (default: the cores of this process)")
      ->check(CLI::PositiveNumber);
  app.add_option("--steps", o.steps, "Timed steps a round")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  auto* on_demand = app.add_flag("--on-demand", o.on_demand,
                                 "One round of steps for every line on stdin, one JSON line each");
  app.add_option("--dump", o.dump, "Write weights and batch to this safetensors file first");
  app.add_flag("--json", o.json, "Machine-readable result");
  app.add_option("--ranks", o.ranks.ranks, "Time this many processes of this machine together")
      ->check(CLI::Range(1, 64));
  app.add_option("--zero", o.ranks.zero, "With ranks: ZeRO stage")->check(CLI::Range(0, 3));
  app.add_option("--reduce", o.ranks.reduce, "With ranks: how gradients are summed")
      ->check(CLI::IsMember({"fp32", "bf16", "ordered"}))
      ->capture_default_str();
  app.add_option("--table", o.ranks.table, "memory: of ZeRO stages 0 to 3 at 1, 2 and 4 ranks")
      ->check(CLI::IsMember({"memory"}));
  app.add_option("--simulate", o.ranks.simulate,
                 "One rank of a simulated network: ranks=64,latency=5us,bandwidth=50GB/s"
                 "[,ranks_per_node=8,inside_latency=3us,inside_bandwidth=450GB/s]");
  app.add_option("--trace", o.ranks.trace, "With --simulate: a Chrome trace of it");
  app.add_option("--result", o.ranks.result)->group("");
  on_demand->needs(app.get_option("--shape"))->needs(app.get_option("--precision"));
  app.footer("Example:\n  bench_train_step --shape decoder-7M --precision fp32 --steps 10");
  return ashlar::status_of([&] {
    ashlar::read_options(app, argc, argv);
    if (o.ranks.wanted()) {
      ashlar::run_ranks(o, {argv + 1, argv + argc});
    } else {
      ashlar::run(o);
    }
    return 0;
  });
}
