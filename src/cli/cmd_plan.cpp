#include <cstdio>
#include <memory>

#include "cli/commands.h"
#include "cli/processes.h"
#include "train_sft/base/memory.h"
#include "train_sft/base/signals.h"
#include "train_sft/ops/load_device.h"
#include "train_sft/plan/plan.h"

namespace train_sft::cli {
namespace {

// "max_iters=2000,2300": the option, and the settings with each of the values.
struct Comparison {
  const Option* option = nullptr;
  std::vector<std::pair<std::string, Settings>> variants;
};

Comparison compared(const Settings& settings, const std::string& spec) {
  const size_t equals = spec.find('=');
  const Option* option = equals == spec.npos ? nullptr : find_option(spec.substr(0, equals));
  if (option == nullptr) {
    throw UsageError(
        "compare: '{}' is not valid, expected an option and its values, such as "
        "max_iters=2000,2300",
        spec);
  }
  Comparison comparison{option, {}};
  for (size_t at = equals + 1; at <= spec.size();) {
    const size_t comma = std::min(spec.find(',', at), spec.size());
    const std::string value = spec.substr(at, comma - at);
    Settings variant = settings;
    variant.set(option->name, parse_option_text(*option, value), "--compare");
    validate(variant);
    comparison.variants.emplace_back(option->name + "=" + value, std::move(variant));
    at = comma + 1;
  }
  return comparison;
}

GivenSize given_size(const Invocation& invocation) {
  GivenSize given;
  if (invocation.has("dataset_tokens"))
    given.tokens = static_cast<uint64_t>(invocation.integer("dataset_tokens"));
  if (invocation.has("dataset_examples"))
    given.examples = static_cast<uint64_t>(invocation.integer("dataset_examples"));
  if (invocation.has("mean_tokens")) given.mean_tokens = invocation.number("mean_tokens");
  if (given.tokens && given.examples)
    throw UsageError(
        "dataset_tokens contradicts dataset_examples: both say how much data there is; "
        "give dataset_examples with mean_tokens");
  if (given.mean_tokens && !given.examples)
    throw UsageError("mean_tokens: says nothing without dataset_examples; give both");
  return given;
}

// Whether plans that differ in this option read the same rows from the files.
bool leaves_data_alone(const Option& option) {
  return option.group == "Length" || option.group == "Optimizer and schedule" ||
         option.group == "Machine";
}

// The files are read unless `data` holds what they gave already.
void choose_data(PlanRequest& request, const GivenSize& given, std::unique_ptr<PlannedData>& data) {
  const TrainConfig& config = request.settings.config;
  if (given.tokens || given.examples) {
    request.size = size_from_numbers(given, config);
  } else if (config.data.empty()) {
    throw UsageError(
        "no data given: add --data FILE, or its size by --dataset_tokens N or "
        "--dataset_examples N --mean_tokens N");
  } else {
    if (!data) data = read_planned_data(config);
    request.data = data.get();
    request.size = data->size;
  }
}

// Where training would compute here; none: on the CPU.
std::optional<Devices> device_here(const TrainConfig& config, int64_t processes) {
  const ops::ChosenDevice chosen = ops::choose_device(config.device);
  if (chosen.device.is_cpu()) return {};
  if (config.precision == "fp8" && !chosen.fp8)
    throw UsageError(
        "precision fp8: {} has no 8-bit products; use --precision bf16, or plan for another device "
        "with --on",
        chosen.name);
  return Devices{rates_of_driver(chosen.name, chosen.memory_bytes), processes};
}

// The ranks of the batch: those of a node, times the nodes.
void choose_devices(PlanRequest& request, const Invocation& invocation) {
  TrainConfig& config = request.settings.config;
  const bool gpus_given = request.settings.given("gpus");
  if (invocation.has("on")) {
    request.on = parse_devices(invocation.text("on"));
    if (request.on->count == 1) {
      request.on->count = config.gpus;
    } else if (!gpus_given) {
      config.gpus = request.on->count;
    } else if (config.gpus != request.on->count) {
      throw UsageError("on: {} devices and gpus {} contradict each other; give one of them",
                       request.on->count, config.gpus);
    }
  } else {
    request.processes = processes_of_start(request.settings);
    if (!gpus_given) config.gpus = config.procs;
    // --procs computes on CPUs.
    if (config.procs == 1) request.on = device_here(config, request.processes);
  }
  config.gpus *= request.nodes;
}

PlanRequest request_of(const Invocation& invocation) {
  PlanRequest request;
  request.program_bytes = resident_bytes();
  request.probe_steps = invocation.integer("probe_steps");
  if (invocation.has("expect_steps_per_s"))
    request.expect_steps_per_s = invocation.number("expect_steps_per_s");
  request.nodes = invocation.integer("nodes");
  if (invocation.has("link_gbps")) request.link_gbps = invocation.number("link_gbps");
  if (invocation.has("network_gbps")) request.network_gbps = invocation.number("network_gbps");
  if (invocation.has("deadline")) request.deadline_s = parse_deadline(invocation.text("deadline"));
  return request;
}

Outcome run_plan(const Invocation& invocation) {
  const signals::ExitDeadline deadline;
  const Settings& settings = invocation.settings;
  validate(settings);
  Comparison comparison{nullptr, {{"", settings}}};
  if (invocation.has("compare")) comparison = compared(settings, invocation.text("compare"));
  const GivenSize given = given_size(invocation);
  PlanRequest request = request_of(invocation);
  std::unique_ptr<PlannedData> data;
  std::vector<std::pair<std::string, Json>> plans;
  for (const auto& [name, variant] : comparison.variants) {
    request.settings = variant;
    choose_devices(request, invocation);
    if (comparison.option != nullptr && !leaves_data_alone(*comparison.option)) data.reset();
    choose_data(request, given, data);
    plans.emplace_back(name, make_plan(request));
    signals::throw_if_stopped();
  }
  if (!invocation.has("compare")) {
    if (!settings.config.json) fmt::print("{}", describe_plan(plans[0].second));
    return {ExitCode::ok, std::move(plans[0].second)};
  }
  if (!settings.config.json) fmt::print("{}", describe_comparison(plans));
  Json result;
  for (auto& [name, plan] : plans) result["compare"][name] = std::move(plan);
  return {ExitCode::ok, std::move(result)};
}

}  // namespace

Command plan_command() {
  Command command;
  command.name = "plan";
  command.summary = "Says what a run would do; trains no model.";
  command.examples = {
      "train_sft plan --config instruct_alpaca --data alpaca.json",
      "train_sft plan --config instruct_alpaca --dataset_examples 52002 --mean_tokens 120 "
      "--compare max_iters=2000,2300,3100,3900",
      "train_sft plan --config production_8gpu --dataset_tokens 51e9 --on h100x8 "
      "--expect_steps_per_s 20",
      "train_sft plan --config production_8gpu --dataset_tokens 51e9 --on h100x8 --nodes 4 "
      "--network_gbps 400",
      "train_sft plan --config gpt2_124m --dataset_tokens 9e9 --json",
  };
  command.own_options = {
      own_option("dataset_tokens", "int", nullptr, "Tokens to train on, instead of --data", 1,
                 9e15),
      own_option("dataset_examples", "int", nullptr,
                 "Examples, validation included, instead of --data", 1, 9e15),
      own_option("mean_tokens", "float", nullptr, "Their mean length", 1, 1e9),
      own_option("compare", "string", nullptr, "OPTION=A,B,…: plans side by side"),
      own_option("on", "string", nullptr,
                 "Devices to plan for instead of this machine's, such as h100x8"),
      own_option("nodes", "int", 1, "Machines, each with the devices of --on or --gpus", 1, 65536),
      own_option("link_gbps", "float", nullptr,
                 "Gbit/s from each device to the others of its node, in one direction", 1e-6, 1e9),
      own_option("network_gbps", "float", nullptr,
                 "Gbit/s from each node to the others, in one direction", 1e-6, 1e9),
      own_option("probe_steps", "int", 3,
                 "Micro-batches measured on this machine; 0: no time is predicted", 0, 1000),
      own_option("expect_steps_per_s", "float", nullptr,
                 "A claimed speed, checked against what is possible", 1e-9, 1e9),
      own_option("deadline", "string", nullptr, "When the run must end: 8h, 2d, 2026-12-01 08:00"),
  };
  command.shared = {"*"};
  command.reads_files = true;
  command.run = run_plan;
  return command;
}

}  // namespace train_sft::cli
