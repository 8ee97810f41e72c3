#include <chrono>
#include <cmath>

#include "cli/app.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "core/base/cpu.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/config/config.h"
#include "kernels/elementwise.h"
#include "package/import/open_model.h"

namespace ashlar::cli {
namespace {

struct Options {
  std::string model, spec;
  int64_t prompt = 512, generate = 128, repeats = 5;
  std::vector<int64_t> batches = {1};
  std::string format = "md";
  bool json = false;
  EngineArguments engine;
};

struct Row {
  std::string test;
  int64_t batch;
  double mean, stddev;
};

// Weights of a model that was never trained: speed does not depend on their values.
ModelData untrained(const std::string& path) {
  const Node config = load_yaml(path);
  const Node* section = config.find("model");
  ModelData model;
  model.spec = model_spec_from_config(section != nullptr ? *section : config);
  uint64_t stream = 0;
  for (const ParameterSpec& p : parameters(model.spec)) {
    const Philox rng(1, stream++);
    std::vector<float> values(static_cast<size_t>(p.numel()), 1.0f);
    if (!p.is_norm()) {
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(0.04 * (rng.uniform(i) - 0.5));
      }
    }
    model.tensors[p.name] = make_dense(p.name, p.shape, values);
  }
  model.start_token = 0;
  model.stop_tokens = {0};
  return model;
}

class Bench {
 public:
  Bench(const ModelData& model, const Options& o)
      : model_(model),
        cache_(choose_cache(o.engine, model, o.prompt + o.generate)),
        engine_(model, o.engine.engine_options()) {}

  // Seconds to feed `tokens` random tokens to each of `batch` new texts.
  double prompt(int64_t batch, int64_t tokens) {
    start(batch);
    const auto text = random_text(tokens);
    std::vector<StepItem> items;
    for (auto& s : sequences_) items.push_back({s.get(), text, true, nullptr});
    return timed([&] { engine_.feed(items); });
  }

  // Seconds to decode `tokens` tokens greedily for each of `batch` texts behind a short prompt.
  double decode(int64_t batch, int64_t tokens) {
    prompt(batch, 4);
    std::vector<int32_t> next(static_cast<size_t>(batch));
    return timed([&] {
      for (int64_t t = 0; t < tokens; ++t) {
        std::vector<StepItem> items;
        for (size_t b = 0; b < next.size(); ++b) {
          const auto logits = engine_.logits(*sequences_[b]);
          next[b] =
              static_cast<int32_t>(argmax(logits.data(), static_cast<int64_t>(logits.size())));
          items.push_back({sequences_[b].get(), std::span(&next[b], 1), true, nullptr});
        }
        engine_.feed(items);
      }
    });
  }

 private:
  void start(int64_t batch) {
    sequences_.clear();
    for (int64_t b = 0; b < batch; ++b) {
      sequences_.push_back(engine_.start(cache_.options, cache_.policy));
    }
  }

  std::vector<int32_t> random_text(int64_t tokens) const {
    const Philox rng(2);
    std::vector<int32_t> text;
    for (int64_t i = 0; i < tokens; ++i) {
      text.push_back(static_cast<int32_t>(
          rng.below(static_cast<uint64_t>(i), static_cast<uint64_t>(model_.spec.vocab_size))));
    }
    return text;
  }

  template <typename F>
  static double timed(F&& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  const ModelData& model_;
  CacheChoice cache_;
  Engine engine_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

Row measure(const std::string& name, int64_t batch, int64_t tokens, int64_t repeats,
            const std::function<double()>& run) {
  run();  // warm-up
  double sum = 0, square = 0;
  for (int64_t r = 0; r < repeats; ++r) {
    const double rate = static_cast<double>(batch * tokens) / run();
    sum += rate;
    square += rate * rate;
  }
  const double n = static_cast<double>(repeats), mean = sum / n;
  const double variance = repeats > 1 ? std::max(0.0, (square - n * mean * mean) / (n - 1)) : 0;
  return {name, batch, mean, std::sqrt(variance)};
}

void print(const std::vector<Row>& rows, const std::string& format) {
  if (format == "json") {
    Node list = Node::list();
    for (const Row& r : rows) {
      list.push(Node::Map{{"test", r.test},
                          {"batch", r.batch},
                          {"tokens_per_second", r.mean},
                          {"stddev", r.stddev}});
    }
    print_json(list);
    return;
  }
  const bool csv = format == "csv";
  if (csv) {
    fmt::print("test,batch,tokens_per_second,stddev\n");
  } else {
    fmt::print("| test | batch | tokens/s | ± |\n|---|---|---|---|\n");
  }
  for (const Row& r : rows) {
    if (csv) {
      fmt::print("{},{},{:.3f},{:.3f}\n", r.test, r.batch, r.mean, r.stddev);
    } else {
      fmt::print("| {} | {} | {:.1f} | {:.1f} |\n", r.test, r.batch, r.mean, r.stddev);
    }
  }
}

void run(const Options& o) {
  require(o.model.empty() != o.spec.empty(), ErrorCode::kRequest,
          "bench: give either a MODEL or --spec FILE");
  const ModelData model = o.spec.empty() ? open_model(o.model) : untrained(o.spec);
  Bench bench(model, o);
  std::vector<Row> rows;
  for (int64_t batch : o.batches) {
    require(batch >= 1, ErrorCode::kRequest, "-b: {} is not positive", batch);
    if (o.prompt > 0) {
      rows.push_back(measure(fmt::format("pp{}", o.prompt), batch, o.prompt, o.repeats,
                             [&] { return bench.prompt(batch, o.prompt); }));
    }
    if (o.generate > 0) {
      rows.push_back(measure(fmt::format("tg{}", o.generate), batch, o.generate, o.repeats,
                             [&] { return bench.decode(batch, o.generate); }));
    }
  }
  fmt::print(stderr, "{}, {}\n", cpu_features().model, isa_name(active_isa()));
  print(rows, o.json ? "json" : o.format);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("bench", "Time prompt processing and generation");
  c->add_option("model", options->model, "Package or importable model");
  c->add_option("--spec", options->spec, "YAML with a `model:` section: time untrained weights");
  c->add_option("-p,--prompt-tokens", options->prompt, "Prompt length (0: skip)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("-n,--gen-tokens", options->generate, "Tokens to generate (0: skip)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("-b,--batch", options->batches, "Sequences at once, such as 1,8")->delimiter(',');
  c->add_option("-r,--repeats", options->repeats, "Timed runs after one warm-up")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("-o,--output-format", options->format, "md, json or csv")
      ->check(CLI::IsMember({"md", "json", "csv"}))
      ->capture_default_str();
  add_engine_options(c, options->engine);
  add_json_flag(c, options->json);
  c->footer("Example:\n  ashlar bench packages/stories -p 256 -n 64 -b 1,8 -t 2 -r 5 -o md");
  c->callback([options] { run(*options); });
}

}  // namespace ashlar::cli
