#include "train_sft/data/loader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "train_sft/base/rng.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

// Examples with these lengths; token values are unique (the index in the whole), the last third of
// each example is learned.
Dataset examples_of(const std::vector<uint64_t>& lengths, float weight = 1.0F) {
  std::vector<int32_t> tokens;
  std::vector<float> weights;
  std::vector<uint64_t> offsets{0}, ids;
  for (const uint64_t length : lengths) {
    for (uint64_t i = 0; i < length; ++i) {
      tokens.push_back(static_cast<int32_t>(tokens.size()));
      const float learned = ids.empty() ? 1.0F : weight;  // weight: from the second on
      weights.push_back(i > 0 && 3 * i >= 2 * length ? learned : 0.0F);
    }
    offsets.push_back(tokens.size());
    ids.push_back(ids.size() + 1000);
  }
  Dataset dataset;
  dataset.tokens = tokens;
  dataset.weights = weights;
  dataset.offsets = std::move(offsets);
  dataset.ids = std::move(ids);
  return dataset;
}

Dataset stream_of(const std::vector<uint64_t>& document_lengths) {
  Dataset dataset = examples_of(document_lengths);
  dataset.is_text = true;
  dataset.weights = {};
  return dataset;
}

// Log-normal lengths like instruction data's.
std::vector<uint64_t> instruction_lengths(uint64_t n, double median, uint64_t most) {
  const CounterRng rng(5, 1);
  std::vector<uint64_t> lengths;
  for (uint64_t i = 0; i < n; ++i) {
    const double length = median * std::exp(0.8 * rng.normal(i));
    lengths.push_back(std::clamp<uint64_t>(static_cast<uint64_t>(length), 4, most));
  }
  return lengths;
}

TEST(LoaderTest, EveryExampleOnceAnEpochForEachPacking) {
  const Dataset dataset = examples_of(instruction_lengths(1003, 30, 128));
  for (const Packing packing : {Packing::none, Packing::best_fit, Packing::sequential}) {
    const RowTable rows(dataset, packing, 128);
    const RowOrder order(rows.size(), 3, true, 8);
    for (uint64_t epoch = 0; epoch < 2; ++epoch) {
      std::map<uint64_t, int> seen;
      for (uint64_t s = 0; s < order.steps_per_epoch(); ++s) {
        const uint64_t step = epoch * order.steps_per_epoch() + s;
        for (int micro = 0; micro < 4; ++micro) {
          for (const uint64_t id : make_batch(rows, order, step, micro, 2).example_ids) ++seen[id];
        }
      }
      EXPECT_EQ(seen.size(), dataset.size());
      for (const auto& [id, times] : seen) EXPECT_EQ(times, 1) << id;
    }
  }
}

TEST(LoaderTest, LastStepOfAnEpochIsShortAndNothingWraps) {
  const RowOrder order(49401, 1337, true, 64);
  EXPECT_EQ(order.steps_per_epoch(), 772U);
  EXPECT_EQ(order.rows_in_step(770), 64U);
  EXPECT_EQ(order.rows_in_step(771), 57U);
  EXPECT_EQ(order.rows_in_step(772), 64U);
  EXPECT_EQ(order.rows_before(772), 49401U);
  EXPECT_EQ(order.rows_before(773), 49401U + 64U);
  EXPECT_EQ(order.epoch_of(771), 0U);
  EXPECT_EQ(order.epoch_of(772), 1U);
}

TEST(LoaderTest, OrderIsAPureFunctionOfSeedAndEpoch) {
  const RowOrder a(100, 7, true, 10), b(100, 7, true, 10), c(100, 8, true, 10);
  int same_seed = 0, same_epoch = 0;
  for (uint64_t step = 0; step < 10; ++step) {
    for (uint64_t i = 0; i < 10; ++i) {
      EXPECT_EQ(a.row(step, i), b.row(step, i));
      same_seed += a.row(step, i) == c.row(step, i) ? 1 : 0;
      same_epoch += a.row(step, i) == a.row(step + 10, i) ? 1 : 0;
    }
  }
  EXPECT_LT(same_seed, 20);
  EXPECT_LT(same_epoch, 20);
}

TEST(LoaderTest, OneByEightTwoByFourAndEightByOneReadTheSameRows) {
  const Dataset dataset = examples_of(instruction_lengths(61, 20, 64));
  const RowTable rows(dataset, Packing::none, 64);
  const RowOrder order(rows.size(), 3, true, 8);
  const auto ids_in_order = [&](uint64_t step, int64_t batch_size, int64_t ranks) {
    std::vector<uint64_t> ids;
    for (int64_t micro = 0; micro < 8 / batch_size / ranks; ++micro) {
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const Batch batch = make_batch(rows, order, step, micro, batch_size, rank, ranks);
        ids.insert(ids.end(), batch.example_ids.begin(), batch.example_ids.end());
      }
    }
    return ids;
  };
  for (const uint64_t step : {0, 6, 7}) {
    const auto one = ids_in_order(step, 1, 1);
    EXPECT_EQ(one.size(), order.rows_in_step(step));
    EXPECT_EQ(ids_in_order(step, 2, 1), one);
    EXPECT_EQ(ids_in_order(step, 8, 1), one);
    EXPECT_EQ(ids_in_order(step, 2, 2), one);
    EXPECT_EQ(ids_in_order(step, 1, 8), one);
  }
  EXPECT_EQ(make_batch(rows, order, 7, 7, 1).size(), 0) << "past the end of a short step";
}

TEST(LoaderTest, TargetsAreTheNextTokenWithinTheExample) {
  const Dataset dataset = examples_of({5, 9, 3});
  const RowTable rows(dataset, Packing::best_fit, 20);
  ASSERT_EQ(rows.size(), 1U);
  const Batch batch = make_batch(rows, 0, 1);
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int32_t>{0, 9, 14, 17}));
  EXPECT_EQ(batch.max_seqlen, 9);
  std::set<int32_t> learned(batch.learned.begin(), batch.learned.end());
  for (int64_t d = 0; d < batch.documents(); ++d) {
    const auto begin = static_cast<size_t>(batch.cu_seqlens[static_cast<size_t>(d)]);
    const auto end = static_cast<size_t>(batch.cu_seqlens[static_cast<size_t>(d) + 1]);
    for (size_t i = begin; i < end; ++i) {
      EXPECT_EQ(batch.positions[i], static_cast<int32_t>(i - begin));
      const bool last = i + 1 == end;
      EXPECT_EQ(batch.targets[i], last ? kNoTarget : batch.tokens[i + 1]);
      // Position i is learned when predicting token i+1 has weight.
      const bool expected = !last && dataset.weights[static_cast<size_t>(batch.tokens[i]) + 1] > 0;
      EXPECT_EQ(learned.contains(static_cast<int32_t>(i)), expected) << i;
    }
  }
  EXPECT_TRUE(batch.weights.empty());
}

TEST(LoaderTest, WeightsFollowTheLearnedPositionsAcrossExamples) {
  const Dataset dataset = examples_of({6, 6}, 0.25F);
  const RowTable rows(dataset, Packing::none, 8);
  const Batch batch = make_batch(rows, 0, 2);
  ASSERT_EQ(batch.weights.size(), batch.learned.size());
  for (size_t l = 0; l < batch.learned.size(); ++l) {
    EXPECT_EQ(batch.weights[l], batch.learned[l] < 6 ? 1.0F : 0.25F);
  }
  EXPECT_DOUBLE_EQ(batch.weight_sum(), 2 + 0.5);
}

TEST(LoaderTest, TextRowsDoNotOverlapAndTheTailIsReported) {
  const Dataset dataset = stream_of({991386});
  const RowTable rows(dataset, Packing::sequential, 1024);
  EXPECT_EQ(rows.size(), 968U);
  EXPECT_EQ(rows.tail_tokens(), 153U);
  const Batch first = make_batch(rows, 0, 1);
  const Batch second = make_batch(rows, 1, 1);
  EXPECT_EQ(first.size(), 1024);
  EXPECT_EQ(first.targets.back(), second.tokens.front()) << "each token but the first is a target";
  EXPECT_EQ(second.positions.front(), 0);
  EXPECT_EQ(first.learned.size(), 1024U);
  EXPECT_EQ(make_batch(rows, 967, 1).targets.back(), 968 * 1024);
}

TEST(LoaderTest, TextRowWithoutARoomForItsLastTargetIsNoRow) {
  EXPECT_EQ(RowTable(stream_of({16}), Packing::sequential, 8).size(), 1U);
  EXPECT_EQ(RowTable(stream_of({17}), Packing::sequential, 8).size(), 2U);
  EXPECT_EQ(RowTable(stream_of({5}), Packing::sequential, 8).size(), 0U);
}

TEST(LoaderTest, TextTargetsDoNotCrossDocuments) {
  const Dataset dataset = stream_of({5, 3, 8, 1, 4});  // ends at 5, 8, 16, 17, 21
  const RowTable rows(dataset, Packing::sequential, 8);
  ASSERT_EQ(rows.size(), 2U);
  const Batch batch = make_batch(rows, 0, 2);
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int32_t>{0, 5, 8, 16}));
  EXPECT_EQ(batch.targets[4], kNoTarget);
  EXPECT_EQ(batch.targets[7], kNoTarget);
  EXPECT_EQ(batch.targets[15], kNoTarget);
  EXPECT_EQ(batch.positions[5], 0);
  EXPECT_EQ(batch.learned.size(), 13U);
  EXPECT_EQ(std::set<uint64_t>(batch.example_ids.begin(), batch.example_ids.end()).size(), 3U);
}

TEST(LoaderTest, ADocumentCutByARowGoesOnWithFreshPositions) {
  const Dataset dataset = stream_of({4, 14});
  const Batch batch = make_batch(RowTable(dataset, Packing::sequential, 8), 0, 2);
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int32_t>{0, 4, 8, 16}));
  EXPECT_EQ(batch.targets[7], 8) << "the row's last target is the stream's next token";
  EXPECT_EQ(batch.positions[8], 0);
}

TEST(PackingTest, BestFitIsWithinOneRowOfTheBoundOnInstructionData) {
  const std::vector<uint64_t> lengths = instruction_lengths(75000, 125, 2048);
  const uint64_t tokens = std::accumulate(lengths.begin(), lengths.end(), uint64_t{0});
  const Dataset dataset = examples_of(lengths);
  const RowTable rows(dataset, Packing::best_fit, 2048);
  EXPECT_LE(rows.size(), (tokens + 2047) / 2048 + 1);
  EXPECT_GT(rows.fill(), 0.999);
}

TEST(PackingTest, ShortExamplesBeingRareWastesLittle) {
  const CounterRng rng(6, 1);
  std::vector<uint64_t> lengths;
  for (uint64_t i = 0; i < 50000; ++i) lengths.push_back(28 + rng.bits(i) % 283);
  const uint64_t tokens = std::accumulate(lengths.begin(), lengths.end(), uint64_t{0});
  const Dataset dataset = examples_of(lengths);
  EXPECT_LE(RowTable(dataset, Packing::best_fit, 1024).size(), (tokens + 1023) / 1024 + 2);
}

TEST(PackingTest, NoRowIsFullerThanTheBlockAndNoExampleIsSplit) {
  const Dataset dataset = examples_of(instruction_lengths(2000, 40, 100));
  for (const Packing packing : {Packing::best_fit, Packing::sequential}) {
    const RowTable rows(dataset, packing, 100);
    for (uint64_t row = 0; row < rows.size(); ++row) {
      const Batch batch = make_batch(rows, row, 1);
      EXPECT_LE(batch.size(), 100);
      for (size_t d = 0; d < batch.example_ids.size(); ++d) {
        const uint64_t e = batch.example_ids[d] - 1000;
        EXPECT_EQ(static_cast<uint64_t>(batch.cu_seqlens[d + 1] - batch.cu_seqlens[d]),
                  dataset.offsets[e + 1] - dataset.offsets[e]);
      }
      EXPECT_EQ(rows.examples(row), batch.example_ids);
    }
  }
}

TEST(PackingTest, SequentialKeepsTheOrder) {
  const Dataset dataset = examples_of({5, 5, 7, 2, 10, 1});
  const RowTable rows(dataset, Packing::sequential, 10);
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(rows.examples(0), (std::vector<uint64_t>{1000, 1001}));
  EXPECT_EQ(rows.examples(1), (std::vector<uint64_t>{1002, 1003}));
  EXPECT_EQ(rows.examples(3), (std::vector<uint64_t>{1005}));
}

}  // namespace
}  // namespace train_sft
