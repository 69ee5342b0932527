// What `plan` says that ranks send each other, against the calls that steps of real runs make on a
// fake collective: names, order, bytes, and what has been computed when each starts.
#include <gmock/gmock.h>

#include <ostream>

#include "support/fake_collective.h"
#include "train/gradient_reduction.h"
#include "train/step.h"
#include "train_sft/plan/plan.h"
#include "unit/train/training_fixture.h"

namespace train_sft {
namespace {

constexpr int kRanks = 4;

struct Seen {
  std::string call, name;
  uint64_t bytes = 0;
  std::string after;
  bool operator==(const Seen&) const = default;
  friend std::ostream& operator<<(std::ostream& out, const Seen& s) {
    return out << s.call << " '" << s.name << "' " << s.bytes << " after " << s.after;
  }
};

int64_t place_of(const ParameterInfo& info, bool before_layers) {
  if (info.layer >= 0) return info.layer;
  return before_layers ? GradientReduction::kBelow : GradientReduction::kOnTop;
}

// Looks at gradients and masters at each call of one step: which of them stand as they will at the
// step's end says what has been computed by then.
class Witness {
 public:
  explicit Witness(Run& run) : run_(run), masters_(run.parameters->master().clone()) {}

  void see(const FakeCollective::Call& call) {
    moments_.push_back(
        {call, run_.parameters->gradients().clone(), !run_.parameters->master().equal(masters_)});
    if (call.name == "sums of the step") final_ = moments_.back().gradients;
  }

  std::vector<Seen> seen() const {
    std::vector<Seen> all;
    for (const Moment& moment : moments_)
      all.push_back({moment.call.what, moment.call.name, moment.call.bytes,
                     moment.updated           ? "update"
                     : moment.reduced(final_) ? "reduction"
                                              : after(moment)});
    return all;
  }

  // Of this process, before others' were added.
  const at::Tensor& gradients() const { return final_; }

 private:
  struct Moment {
    FakeCollective::Call call;
    at::Tensor gradients;
    bool updated = false;

    // Only once everything was sent are sums taken over.
    bool reduced(const at::Tensor& own) const {
      return call.name != "gradients" && !gradients.equal(own);
    }
  };

  // From the top down, the lowest place down to which everything is complete.
  std::string after(const Moment& moment) const {
    std::map<int64_t, bool, std::greater<>> complete;
    bool before_layers = true;
    for (const ParameterInfo& info : run_.parameters->layout().parameters) {
      before_layers = before_layers && info.layer < 0;
      if (!info.trained()) continue;
      const auto cut = [&](const at::Tensor& flat) {
        return flat.narrow(0, info.trained_offset, info.numel);
      };
      bool& so_far = complete.try_emplace(place_of(info, before_layers), true).first->second;
      so_far = so_far && cut(moment.gradients).equal(cut(final_));
    }
    std::string name = "nothing";
    for (const auto& [place, done] : complete) {
      if (!done) return name;
      name = place == GradientReduction::kOnTop ? "head" : fmt::format("layer {}", place);
    }
    const bool is_gradients = moment.call.name == "gradients";
    const bool has_below = complete.rbegin()->first == GradientReduction::kBelow;
    return has_below || !is_gradients ? "backward" : name;
  }

  Run& run_;
  at::Tensor masters_, final_;
  std::vector<Moment> moments_;
};

class StepCallsTest : public TrainingTest {
 protected:
  using Values = std::vector<std::pair<const char*, Json>>;

  // Each layer's gradients are a range of their own.
  Settings wide() {
    Settings settings = tiny();
    set(settings, "n_layer", 4);
    set(settings, "n_embd", 304);
    return settings;
  }

  // A step's calls as they were made, after a check that a second step makes them again.
  std::vector<Seen> calls_of_run(const Settings& settings) {
    std::filesystem::remove_all("out");
    FakeCollective fake(kRanks);
    const auto run = set_up_run(settings, fake);
    std::vector<Seen> calls;
    for (int step = 0; step < 2; ++step) {
      Witness witness(*run);
      fake.on_call = [&](const FakeCollective::Call& call) { witness.see(call); };
      EXPECT_FALSE(take_step(*run).skipped);
      fake.on_call = {};
      if (settings.config.reduce_dtype == "auto") {  // nothing was added after it was sent
        EXPECT_TRUE(run->parameters->gradients().equal(witness.gradients().mul(kRanks)));
      }
      if (step > 0) {
        EXPECT_EQ(witness.seen(), calls);
      }
      calls = witness.seen();
    }
    return calls;
  }

  // As `plan --procs 4 --json` says.
  Json planned(Settings settings) {
    settings.config.procs = settings.config.gpus = kRanks;
    PlanRequest request;
    request.settings = settings;
    request.processes = kRanks;
    request.probe_steps = 0;
    const auto data = read_planned_data(settings.config);
    request.data = data.get();
    request.size = data->size;
    return make_plan(request)["communication"];
  }

  // What is planned is what is done. Returns it.
  std::vector<Seen> expect_as_planned(const Settings& settings) {
    const Json plan = planned(settings);
    std::vector<Seen> calls;
    for (const Json& call : plan["calls"])
      calls.push_back({call["call"], call["name"], call["bytes"], call["after"]});
    const std::vector<Seen> done = calls_of_run(settings);
    EXPECT_EQ(done, calls);
    double sent = 0;  // of a ring of 4: 3/4 of a buffer to scatter, as much to gather
    for (const Seen& call : done)
      if (call.call != "exchange")
        sent += static_cast<double>(call.bytes) * (call.call == "all_reduce" ? 1.5 : 0.75);
    EXPECT_DOUBLE_EQ(plan["sent_bytes"].get<double>(), sent);
    return calls;
  }

  static Settings with(Settings settings, const Values& values) {
    for (const auto& [name, value] : values) set(settings, name, value);
    return settings;
  }

  static std::vector<std::string> gradients_after(const std::vector<Seen>& calls) {
    std::vector<std::string> after;
    for (const Seen& call : calls)
      if (call.name == "gradients") after.push_back(call.after);
    return after;
  }

  static uint64_t bytes_of(const std::vector<Seen>& calls, const std::string& name) {
    uint64_t bytes = 0;
    for (const Seen& call : calls)
      if (call.name == name) bytes += call.bytes;
    return bytes;
  }
};

using ::testing::ElementsAre;

TEST_F(StepCallsTest, EachLayerIsSentAsItsBackwardEnds) {
  const auto calls = expect_as_planned(wide());
  EXPECT_THAT(gradients_after(calls),
              ElementsAre("layer 3", "layer 2", "layer 1", "layer 0", "backward"));
  EXPECT_EQ(calls.back(), (Seen{"exchange", "sums of the step", 56, "backward"}));
}

TEST_F(StepCallsTest, InnerMicroBatchesSendNothing) {
  const auto one = expect_as_planned(wide());
  EXPECT_EQ(expect_as_planned(with(wide(), {{"grad_accum", 3}})), one);
}

TEST_F(StepCallsTest, SmallLayersGoTogether) {
  const auto calls = expect_as_planned(with(wide(), {{"n_embd", 256}}));
  EXPECT_THAT(gradients_after(calls), ElementsAre("layer 2", "layer 0", "backward"));
}

TEST_F(StepCallsTest, AHeadOfItsOwnIsSentFirst) {
  const CounterRng rng(3, 0);
  std::string text;
  for (uint64_t i = 0; i < 60000; ++i)
    text += i % 6 == 5 ? ' ' : static_cast<char>('a' + rng.bits(i) % 26);
  std::ofstream("data.txt") << text;
  const auto calls = expect_as_planned(with(wide(), {{"family", "llama"},
                                                     {"tie_embeddings", false},
                                                     {"tokenizer_type", "bpe"},
                                                     {"vocab_size", 3600},
                                                     {"n_layer", 2}}));
  EXPECT_THAT(gradients_after(calls), ElementsAre("head", "layer 1", "layer 0", "backward"));
}

TEST_F(StepCallsTest, WithASharedOptimizerWeightsFollowTheUpdate) {
  const auto none = expect_as_planned(wide());
  const auto calls = expect_as_planned(with(wide(), {{"shard", "optimizer"}, {"grad_accum", 2}}));
  EXPECT_THAT(gradients_after(calls),
              ElementsAre("layer 3", "layer 2", "layer 1", "layer 0", "backward"));
  EXPECT_EQ(calls[0].call, "reduce_scatter");
  EXPECT_EQ(calls.back().after, "update");
  EXPECT_EQ(bytes_of(calls, "gradients"), bytes_of(none, "gradients"));
  EXPECT_EQ(bytes_of(calls, "gradient norm"), 8u);
  // Masters are shared out, too: what is gathered is what they are rounded to.
  const auto rounded =
      expect_as_planned(with(wide(), {{"shard", "optimizer"}, {"precision", "bf16"}}));
  EXPECT_EQ(2 * bytes_of(rounded, "weights"), bytes_of(calls, "weights"));
}

TEST_F(StepCallsTest, InBFloat16HalfTheBytesAreSent) {
  for (const char* shard : {"none", "optimizer"}) {
    const auto whole = expect_as_planned(with(wide(), {{"shard", shard}}));
    const auto half = expect_as_planned(with(wide(), {{"shard", shard}, {"reduce_dtype", "bf16"}}));
    EXPECT_EQ(2 * bytes_of(half, "gradients"), bytes_of(whole, "gradients"));
    EXPECT_EQ(gradients_after(half), gradients_after(whole));
  }
}

TEST_F(StepCallsTest, OfLoraTheAdaptersAloneAreSent) {
  Settings base = with(wide(), {{"max_iters", 2}, {"out_dir", "base"}});
  train(base);
  const Values lora = {{"pretrained_model", "base/latest"}, {"lora_rank", 96}};
  Settings settings;
  for (const char* name : {"data", "batch_size", "max_iters", "threads", "out_dir", "block_size"})
    set(settings, name, Json(to_json(tiny())[name]));
  for (const char* shard : {"none", "optimizer"}) {
    const auto calls = expect_as_planned(with(with(settings, lora), {{"shard", shard}}));
    EXPECT_THAT(gradients_after(calls), ElementsAre("layer 1", "layer 0"));
  }
}

TEST_F(StepCallsTest, WhatIsFrozenIsNotSent) {
  const Values frozen = {
      {"freeze", {"transformer.wte.*", "transformer.wpe.*", "transformer.h.0.*", "*.2.mlp.*"}}};
  for (const char* shard : {"none", "optimizer"}) {
    const auto calls = expect_as_planned(with(with(wide(), frozen), {{"shard", shard}}));
    EXPECT_THAT(gradients_after(calls), ElementsAre("layer 3", "layer 1"));
  }
}

}  // namespace
}  // namespace train_sft
