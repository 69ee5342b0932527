#include "packed_rows.h"

#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "packing.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/base/log.h"
#include "train_sft/base/rng.h"

namespace train_sft {
namespace {

constexpr uint64_t kRowsMagic = 0x3173776f72746674;  // "tftrows1"

struct RowsHeader {
  uint64_t magic = kRowsMagic;
  uint64_t checksum = 0;  // XXH3-64 of all that follows
  uint64_t data_hash = 0;
  uint64_t rows = 0, examples = 0;
};
constexpr size_t kRowsUnchecked = 2 * sizeof(uint64_t);

std::vector<uint32_t> lengths_of(const Dataset& dataset, uint64_t block) {
  TRAIN_SFT_CHECK(dataset.size() < (uint64_t{1} << 32), "{} examples", dataset.size());
  std::vector<uint32_t> lengths;
  lengths.reserve(dataset.size());
  for (uint64_t e = 0; e < dataset.size(); ++e) {
    const uint64_t length = dataset.offsets[e + 1] - dataset.offsets[e];
    TRAIN_SFT_CHECK(length <= block, "example {} of {} tokens, block {}", e, length, block);
    lengths.push_back(static_cast<uint32_t>(length));
  }
  return lengths;
}

std::optional<RowColumns> read_rows(const std::string& path, const Dataset& dataset) {
  if (!path_exists(path)) return std::nullopt;
  const auto file = std::make_shared<const MappedFile>(path);
  const auto bytes = file->bytes();
  RowsHeader header;
  if (bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto checked = bytes.subspan(kRowsUnchecked);
  const bool whole = header.magic == kRowsMagic && header.data_hash == hash_string(dataset.hash) &&
                     header.examples == dataset.size() && header.rows <= header.examples &&
                     bytes.size() == sizeof header + (header.rows + 1) * sizeof(uint64_t) +
                                         header.examples * sizeof(uint32_t) &&
                     header.checksum == hash_string({reinterpret_cast<const char*>(checked.data()),
                                                     checked.size()});
  if (!whole) return std::nullopt;
  const auto* offsets = reinterpret_cast<const uint64_t*>(bytes.data() + sizeof header);
  const auto* examples = reinterpret_cast<const uint32_t*>(offsets + header.rows + 1);
  return RowColumns{{file, offsets, header.rows + 1}, {file, examples, header.examples}};
}

void write_rows(const std::string& path, const Dataset& dataset, const RowColumns& rows) {
  RowsHeader header;
  header.data_hash = hash_string(dataset.hash);
  header.rows = rows.offsets.size() - 1;
  header.examples = rows.examples.size();
  std::string contents(reinterpret_cast<const char*>(&header), sizeof header);
  const auto append = [&](const auto& column) {
    contents.append(reinterpret_cast<const char*>(column.begin()),
                    column.size() * sizeof(*column.begin()));
  };
  append(rows.offsets);
  append(rows.examples);
  header.checksum = hash_string(std::string_view(contents).substr(kRowsUnchecked));
  std::memcpy(contents.data(), &header, sizeof header);
  try {
    write_file_atomically(path, contents);
  } catch (const ResourceError& error) {
    log::debug("packed rows are not kept: {}", error.what());
  }
}

}  // namespace

RowColumns packed_rows(const Dataset& dataset, Packing packing, int64_t block_size) {
  std::string path;
  if (!dataset.rows_path.empty()) {
    path = fmt::format("{}_{}_{}", dataset.rows_path,
                       packing == Packing::best_fit ? "best_fit" : "sequential", block_size);
    if (auto rows = read_rows(path, dataset)) return std::move(*rows);
  }
  const auto block = static_cast<uint64_t>(block_size);
  const std::vector<uint32_t> lengths = lengths_of(dataset, block);
  const auto capacity = static_cast<uint32_t>(block);
  PackedRows packed = packing == Packing::best_fit ? pack_best_fit(lengths, capacity)
                                                   : pack_in_order(lengths, capacity);
  RowColumns rows{std::move(packed.offsets), std::move(packed.examples)};
  if (!path.empty()) write_rows(path, dataset, rows);
  return rows;
}

}  // namespace train_sft
