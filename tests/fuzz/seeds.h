// Small valid files of each kind, for fuzzing to begin with.
#pragma once

#include <string>
#include <vector>

namespace train_sft::seeds {

using Files = std::vector<std::string>;

Files json();
Files config();
Files model_config();
Files manifest();
Files safetensors();
Files gguf();
Files sentencepiece();
Files json_lines();
Files gzip();
Files zstd();
Files torch();
Files llmc();
Files tokenizer_json();
Files json_array();
Files text();
Files token_bin();
Files template_file();
Files jinja();
Files stored_template();
Files adapter_config();
Files cache_manifest();
Files cache_part();
Files metrics();
Files event_file();
Files shard_index();
Files tokenizer_config();
Files run_files();

inline constexpr const char* kShard = "model-00001-of-00001.safetensors";  // in shard_index()
void write_tiny_gpt2(const std::string& directory, const std::string& weights);
std::string adapter_weights();  // of the adapter that adapter_config() describes
std::string character_model();  // a sentencepiece model of single characters

}  // namespace train_sft::seeds
