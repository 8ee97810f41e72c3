#include "train/trainer_state.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "core/base/glob.h"
#include "train/graph_config.h"

namespace ashlar {
namespace {

using at::Tensor;

std::vector<int64_t> ranks_from(int64_t first, int64_t count, int64_t stride) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(first + i * stride);
  return out;
}

std::vector<std::vector<size_t>> stage_parameters(const Model& model) {
  std::vector<std::vector<size_t>> out;
  for (const Stage& stage : model.stages()) out.push_back(stage.parameters);
  out.push_back({model.head_index()});
  return out;
}

std::vector<std::string> stage_names(const Model& model) {
  std::vector<std::string> out;
  for (const Stage& stage : model.stages()) out.push_back(stage.name);
  out.push_back("head");
  return out;
}

std::vector<bool> recomputed(const std::vector<std::string>& names,
                             const std::vector<std::string>& globs) {
  std::vector<bool> out(names.size());
  for (const std::string& glob : globs) {
    bool found = false;
    // The loss keeps no logits anyway, and what it makes in its forward pass is its gradient.
    for (size_t i = 0; i + 1 < names.size(); ++i) {
      if (!glob_match(glob, names[i])) continue;
      out[i] = found = true;
    }
    require(found, ErrorCode::kRequest,
            "train.recompute: '{}' matches no stage; this model's first and last are '{}' and '{}'",
            glob, names.front(), names[names.size() - 2]);
  }
  return out;
}

at::Device device_of(const TrainConfig& config) {
  ASHLAR_CHECK(config.device != DeviceKind::kAuto);
  if (config.device == DeviceKind::kCpu) return at::kCPU;
  use_cuda_device(config.device_index);
  return {at::kCUDA, static_cast<at::DeviceIndex>(config.device_index)};
}

}  // namespace

Trainer::State::State(const TrainConfig& c, int64_t eos_id, Communicator& control,
                      Communicator& of_tensors)
    : config(c),
      model(c.model),
      options{eos_id, c.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat, c.z_loss,
              c.block_losses},
      specs(parameters(c.model)),
      model_parameters(specs.size()),
      device(device_of(c)),
      world(control),
      tensors(of_tensors) {
  ASHLAR_CHECK_EQ(control.size(), tensors.size());
  ASHLAR_CHECK(c.precision != Precision::kAuto && c.threads > 0);
  at::set_num_threads(static_cast<int>(c.threads));
  const MicroBatches dealt = micro_batches(0, c.batch_size);
  check_distributed(c.distributed, world.size(), dealt.count());
  const int64_t zero = c.distributed.zero;
  const int64_t shards = zero == 0                       ? 1
                         : c.distributed.shard_ranks > 0 ? c.distributed.shard_ranks
                                                         : world.size();
  const int64_t rank = world.rank(), own = rank % shards;
  const auto sharing = ranks_from(rank - own, shards, 1);
  shard = tensors.split(sharing, "shard");
  replica = tensors.split(ranks_from(own, world.size() / shards, shards), "replica");
  groups = {&tensors, shard.get(), replica.get()};
  control_shard = shard.get();
  if (&world != &tensors) {
    own_control_shard = world.split(sharing, "control of the shard");
    control_shard = own_control_shard.get();
  }

  if (config.lora) {
    adapters = lora_adapters(*config.lora, specs);
    for (const LoraAdapter& a : adapters) specs.insert(specs.end(), {a.down, a.up});
  }
  RunnerPlan run = runner_plan();
  auto in_units = run.stages;
  for (auto& stage : in_units) {
    for (const size_t p : std::vector(stage)) {
      if (run.adapters[p]) stage.insert(stage.end(), {run.adapters[p]->down, run.adapters[p]->up});
    }
  }
  // With bf16 products linear maps are units apart at every stage, so that sums over units have the
  // same order; where whole copies are apart from the master values, they are bf16.
  const bool narrow = options.compute == at::kBFloat16;
  plan = plan_units(specs, run.names, in_units, run.trained, narrow, shards);
  run.places = plan.places;
  std::vector<const UnitLayout*> layouts;
  for (size_t u = 0; u < plan.units.size(); ++u) {
    std::vector<std::vector<int64_t>> shapes;
    for (const auto& part : plan.units[u].parts) shapes.push_back(specs[part.parameter].shape);
    units.push_back(std::make_unique<ParameterUnit>(
        plan.units[u], shapes, zero >= 1 && plan.narrow[u] ? at::kBFloat16 : at::kFloat,
        static_cast<int>(zero), groups, waits, device));
    if (u < plan.trained) layouts.push_back(&units.back()->layout());
  }
  reducer = std::make_unique<GradientReducer>(layouts, static_cast<int>(zero), c.distributed.reduce,
                                              groups, waits, device);
  runner = std::make_unique<StageRunner>(units, *reducer, std::move(run));
  if (c.cuda_graphs) record_passes(make_cuda_graphs(c.device_index));
  position.seed = c.seed;
  initialise();
  optimizer = make_optimizer(config.optimizer, specs, slices());
  if (config.ema) average.emplace(*config.ema, slices());
}

RunnerPlan Trainer::State::runner_plan() const {
  RunnerPlan run;
  run.trained.assign(specs.size(), adapters.empty());
  run.adapters.resize(model_parameters);
  for (size_t i = 0; i < adapters.size(); ++i) {
    const size_t down = model_parameters + 2 * i;
    run.adapters[adapters[i].target] = RunnerPlan::Adapter{down, down + 1};
    run.trained[down] = run.trained[down + 1] = true;
  }
  run.adapter_scale = config.lora ? config.lora->scale() : 0;
  run.stages = stage_parameters(model);
  run.names = stage_names(model);
  run.recompute = recomputed(run.names, config.recompute);
  run.compute = options.compute;
  return run;
}

void Trainer::State::initialise() {
  // One at a time: a rank need not have room for the whole model.
  const auto values = [&](size_t p) {
    if (p < model_parameters) {
      return init_parameter(config.model, specs, p, config.seed, at::kFloat, config.init)
          .view({-1});
    }
    const LoraAdapter& adapter = adapters[(p - model_parameters) / 2];
    const std::vector<float> own = init_adapter(specs[p], adapter.target, config.seed);
    return at::from_blob(const_cast<float*>(own.data()), {specs[p].numel()}, at::kFloat).clone();
  };
  for (const auto& unit : units) {
    for (const auto& piece : unit->layout().pieces(unit->range())) {
      unit->master()
          .narrow(0, piece.at, piece.count)
          .copy_(values(piece.parameter).narrow(0, piece.first, piece.count));
    }
    unit->changed();
  }
}

void Trainer::State::record_passes(std::unique_ptr<GraphBackend> backend) {
  const std::string why = unrecordable(config);
  require(why.empty(), ErrorCode::kRequest, "train.cuda_graphs: {}", why);
  graph = std::make_unique<PassGraph>(std::move(backend), units, *reducer, groups,
                                      [this](const BatchTensors& in) { return pass(in); });
}

void Trainer::State::settle() {
  for (Communicator* group : {groups.world, groups.shard, groups.replica}) group->settle();
}

std::vector<UnitSlice> Trainer::State::slices() const {
  std::vector<UnitSlice> out;
  for (size_t u = 0; u < plan.trained; ++u) {
    out.push_back(
        {&units[u]->layout(), units[u]->range(), units[u]->master(), reducer->gradient(u)});
  }
  return out;
}

MicroBatches Trainer::State::micro_batches(int64_t first, int64_t samples) const {
  return {first, samples, config.micro_batch, world.rank(), world.size()};
}

std::vector<double> Trainer::State::by_micro_batch(const MicroBatches& dealt,
                                                   const std::vector<double>& own) const {
  const auto passes = static_cast<size_t>(dealt.passes());
  const size_t each = own.size() / passes;
  std::vector<double> all(own.size() * static_cast<size_t>(world.size()));
  world.all_gather(own.data(), all.data(), static_cast<int64_t>(own.size()), DType::kF64)->wait();
  std::vector<double> out;
  for (int64_t m = 0; m < dealt.count(); ++m) {
    const auto rank = static_cast<size_t>(m % world.size());
    const auto pass = static_cast<size_t>(m / world.size());
    const auto* from = all.data() + rank * own.size() + pass * each;
    out.insert(out.end(), from, from + each);
  }
  return out;
}

double Trainer::State::gradient_norm() const {
  std::vector<double> own;
  std::vector<int64_t> blocks;  // of each unit, per shard
  for (size_t u = 0; u < plan.trained; ++u) {
    const Tensor& g = reducer->gradient(u);
    const std::vector<double> sums = block_squares(g);
    own.insert(own.end(), sums.begin(), sums.end());
    blocks.push_back(static_cast<int64_t>(sums.size()));
  }
  const auto count = static_cast<int64_t>(own.size());
  std::vector<double> all(own.size() * static_cast<size_t>(shard->size()));
  control_shard->all_gather(own.data(), all.data(), count, DType::kF64)->wait();
  // In the order of the elements, whatever the slices are.
  std::vector<double> ordered;
  int64_t first = 0;
  for (const int64_t n : blocks) {
    for (int64_t rank = 0; rank < shard->size(); ++rank) {
      const auto* from = all.data() + rank * count + first;
      ordered.insert(ordered.end(), from, from + n);
    }
    first += n;
  }
  return norm_of(ordered);
}

// State ------------------------------------------------------------------------------------------

namespace {

template <typename Mirror>
void add_piece(std::vector<StatePiece>& out, std::string name, const ParameterSpec& p,
               int64_t first, const Tensor& values, std::vector<Mirror>& mirrors) {
  Tensor host = values;
  if (!values.is_cpu()) {
    host = values.to(at::kCPU);
    mirrors.push_back({host, values});
  }
  out.push_back({std::move(name) + p.name,
                 p.shape,
                 first,
                 {host.data_ptr<float>(), static_cast<size_t>(host.numel())}});
}

}  // namespace

std::vector<StatePiece> Trainer::state() {
  State& s = *state_;
  s.settle();
  s.mirrors.clear();
  std::vector<StatePiece> out;
  for (const auto& unit : s.units) {
    for (const auto& piece : unit->layout().pieces(unit->range())) {
      add_piece(out, "parameters/", s.specs[piece.parameter], piece.first,
                unit->master().narrow(0, piece.at, piece.count), s.mirrors);
    }
  }
  for (const OptimizerState& state : s.optimizer->state()) {
    add_piece(out, "optimizer/" + state.name + "/", s.specs[state.parameter], state.first,
              state.values, s.mirrors);
  }
  if (s.average) {
    for (const OptimizerState& state : s.average->state()) {
      add_piece(out, state.name + "/", s.specs[state.parameter], state.first, state.values,
                s.mirrors);
    }
  }
  return out;
}

std::vector<StatePiece> Trainer::own_state() {
  const int64_t replicas = state_->replica->size(), own = state_->replica->rank();
  std::vector<StatePiece> out;
  for (StatePiece piece : state()) {
    const auto size = static_cast<int64_t>(piece.values.size());
    const int64_t begin = size * own / replicas, end = size * (own + 1) / replicas;
    if (begin == end) continue;
    piece.first += begin;
    piece.values =
        piece.values.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    out.push_back(std::move(piece));
  }
  return out;
}

void Trainer::state_changed() {
  for (const auto& unit : state_->units) unit->changed();
}

void Trainer::set_parameters(
    const std::function<std::vector<float>(const ParameterSpec&)>& values) {
  State& s = *state_;
  for (size_t i = 0; i < s.model_parameters; ++i) {
    const ParameterSpec& p = s.specs[i];
    const std::vector<float> all = values(p);
    ASHLAR_CHECK_EQ(static_cast<int64_t>(all.size()), p.numel());
    const ParameterUnit& unit = *s.units[s.plan.places[i].unit];
    for (const auto& piece : unit.layout().pieces(unit.range())) {
      if (piece.parameter != i) continue;
      unit.master()
          .narrow(0, piece.at, piece.count)
          .copy_(at::from_blob(const_cast<float*>(all.data()) + piece.first, {piece.count},
                               at::kFloat));
    }
  }
  state_changed();
  if (s.average) s.average->reset(s.slices());
}

void Trainer::save(Snapshot& snapshot) {
  for (const StatePiece& p : own_state()) snapshot.add(p.name, p.shape, p.first, p.values);
  state_->mirrors.clear();
}

void Trainer::load(const CheckpointReader& reader) {
  State& s = *state_;
  const CheckpointManifest& manifest = reader.manifest();
  const auto differs = [&](const char* key, auto now, auto then) {
    require(now == then, ErrorCode::kRequest, "{}: {} is {}, but the run began with {}",
            reader.path().string(), key, now, then);
  };
  require(manifest.spec == s.config.model, ErrorCode::kRequest,
          "{}: the checkpoint is of another model than the configuration's",
          reader.path().string());
  differs("train.seed", s.config.seed, manifest.position.seed);
  const Node* train = manifest.config.find("train");
  const Node* batch = train == nullptr ? nullptr : train->find("batch_size");
  if (batch != nullptr) differs("train.batch_size", s.config.batch_size, batch->as_int());
  differs("the EOS id of the data", s.options.eos_id, manifest.eos_id);
  // A run that begins to keep an average does so from the weights it has come to.
  bool averaged = s.average.has_value();
  for (const StatePiece& piece : state()) {
    const bool average = piece.name.starts_with("ema/");
    if (average && !reader.has(piece.name)) averaged = false;
    if (!average || averaged) reader.read(piece.name, piece.first, piece.values);
  }
  for (const State::Mirror& mirror : s.mirrors) mirror.device.copy_(mirror.host);
  s.mirrors.clear();
  if (s.average && !averaged) {
    spdlog::warn("{}: holds no average of weights; it begins now", reader.path().string());
    s.average->reset(s.slices());
  }
  state_changed();
  s.position = manifest.position;
}

int64_t Trainer::parameter_count() const {
  int64_t total = 0;
  for (const ParameterSpec& p : state_->specs) total += p.numel();
  return total;
}

}  // namespace ashlar
