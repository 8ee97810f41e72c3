#include "train/stage_runner.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {

using at::Tensor;

// One stage's pass. Inputs and parameters are leaves of the graph inside.
struct StageRunner::Frame {
  size_t stage = 0;
  std::vector<size_t> parameters;
  decltype(StageCall::body) body;
  std::vector<Tensor> inputs, values, outputs;  // outputs: empty when they are recomputed
  size_t output_count = 0;

  void evaluate() {
    const at::AutoGradMode with_gradients(true);
    outputs = body(values, inputs);
  }
};

// The stage as the graph outside sees it: edges from its inputs, one output for each defined output
// that is differentiable.
struct StageRunner::Node : torch::autograd::Node {
  StageRunner* runner = nullptr;
  std::unique_ptr<Frame> frame;
  std::vector<size_t> slots;  // index into Frame::outputs of each output of the node

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    ASHLAR_CHECK(frame != nullptr);
    std::vector<Tensor> by_slot(frame->output_count);
    for (size_t i = 0; i < slots.size(); ++i) by_slot[slots[i]] = grads[i];
    auto result = runner->backward(*frame, by_slot);
    frame.reset();  // activations go as soon as they are used
    return result;
  }
  std::string name() const override { return "Stage"; }
};

StageRunner::StageRunner(std::vector<std::unique_ptr<ParameterUnit>>& units,
                         GradientReducer& reducer, std::vector<ParameterPlace> places,
                         std::vector<std::vector<size_t>> stages, std::vector<bool> recompute)
    : units_(units),
      reducer_(reducer),
      places_(std::move(places)),
      recompute_(std::move(recompute)),
      open_(units.size()) {
  ASHLAR_CHECK_EQ(stages.size(), recompute_.size());
  for (const auto& parameters : stages) {
    std::vector<size_t> own;
    for (const size_t p : parameters) own.push_back(places_[p].unit);
    std::sort(own.begin(), own.end());
    own.erase(std::unique(own.begin(), own.end()), own.end());
    units_of_stage_.push_back(std::move(own));
  }
}

StageRunner::~StageRunner() = default;

void StageRunner::begin_pass() { std::fill(open_.begin(), open_.end(), 0); }

const Tensor& StageRunner::value(size_t parameter) const {
  const ParameterPlace& place = places_[parameter];
  return units_[place.unit]->view(place.part);
}

void StageRunner::acquire(size_t stage, Direction direction) {
  for (const size_t u : units_of_stage_[stage]) units_[u]->acquire();
  const bool forward = direction == Direction::kForward;
  if (forward ? stage + 1 == units_of_stage_.size() : stage == 0) return;
  for (const size_t u : units_of_stage_[forward ? stage + 1 : stage - 1]) {
    units_[u]->begin_gather();
  }
}

void StageRunner::release(size_t stage) {
  for (const size_t u : units_of_stage_[stage]) units_[u]->release();
}

std::vector<Tensor> StageRunner::run_plain(const StageCall& call, std::vector<Tensor> inputs) {
  acquire(call.stage, Direction::kForward);
  std::vector<Tensor> own;
  for (const size_t p : call.parameters) own.push_back(value(p));
  std::vector<Tensor> outputs = call.body(own, inputs);
  release(call.stage);
  return outputs;
}

std::vector<Tensor> StageRunner::run(const StageCall& call, std::vector<Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return run_plain(call, std::move(inputs));
  if (call.parameters.empty()) return call.body({}, inputs);
  const std::shared_ptr<Node> node(new Node, torch::autograd::deleteNode);
  node->runner = this;
  torch::autograd::edge_list edges;
  for (const Tensor& t : inputs) {
    edges.push_back(t.defined() ? torch::autograd::impl::gradient_edge(t)
                                : torch::autograd::Edge());
  }
  auto frame = std::make_unique<Frame>();
  frame->stage = call.stage;
  frame->parameters.assign(call.parameters.begin(), call.parameters.end());
  frame->body = call.body;
  for (Tensor& t : inputs) {
    const bool wanted = t.defined() && t.requires_grad();
    frame->inputs.push_back(t.defined() ? t.detach().set_requires_grad(wanted) : Tensor());
    t = Tensor();
  }
  acquire(call.stage, Direction::kForward);
  for (const size_t p : call.parameters) {
    frame->values.push_back(value(p).detach().set_requires_grad(true));
  }
  std::vector<Tensor> outputs;
  if (recompute_[call.stage]) {
    const at::NoGradGuard no_grad;
    outputs = call.body(frame->values, frame->inputs);
  } else {
    frame->evaluate();
    outputs = frame->outputs;
  }
  // The backward pass begins with the loss, so what it reads stays.
  if (call.stage + 1 < units_of_stage_.size()) release(call.stage);
  for (const size_t u : units_of_stage_[call.stage]) ++open_[u];
  frame->output_count = outputs.size();
  node->set_next_edges(std::move(edges));
  std::vector<Tensor> visible(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    visible[i] = outputs[i].detach();
    torch::autograd::set_history(visible[i], node);
    node->slots.push_back(i);
  }
  node->frame = std::move(frame);
  return visible;
}

std::vector<Tensor> StageRunner::backward(Frame& frame, std::span<const Tensor> gradients) {
  acquire(frame.stage, Direction::kBackward);
  if (frame.outputs.empty()) frame.evaluate();
  std::vector<Tensor> roots, seeds, targets;
  for (size_t i = 0; i < frame.outputs.size(); ++i) {
    if (!gradients[i].defined() || !frame.outputs[i].requires_grad()) continue;
    roots.push_back(frame.outputs[i]);
    seeds.push_back(gradients[i]);
  }
  for (const Tensor& t : frame.inputs) {
    if (t.defined() && t.requires_grad()) targets.push_back(t);
  }
  const size_t inputs = targets.size();
  targets.insert(targets.end(), frame.values.begin(), frame.values.end());
  std::vector<Tensor> found(targets.size());
  if (!roots.empty()) {
    found = torch::autograd::grad(roots, targets, seeds, /*retain_graph=*/false,
                                  /*create_graph=*/false, /*allow_unused=*/true);
  }
  frame.outputs.clear();
  release(frame.stage);
  add_gradients(frame, std::span(found).subspan(inputs));
  std::vector<Tensor> result(frame.inputs.size());
  for (size_t i = 0, next = 0; i < result.size(); ++i) {
    const Tensor& t = frame.inputs[i];
    if (t.defined() && t.requires_grad()) result[i] = std::move(found[next++]);
  }
  return result;
}

void StageRunner::add_gradients(const Frame& frame, std::span<const Tensor> gradients) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < frame.parameters.size(); ++i) {
    const ParameterPlace& place = places_[frame.parameters[i]];
    if (gradients[i].defined()) reducer_.add(place.unit, place.part, gradients[i]);
  }
  for (const size_t u : units_of_stage_[frame.stage]) {
    if (--open_[u] == 0) reducer_.done(u);
  }
}

}  // namespace ashlar
