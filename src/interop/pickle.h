// A reader for the pickles that torch.save writes (CPython, Lib/pickletools.py describes the
// opcodes). It executes nothing: it knows the opcodes of plain data, and of all Python objects only
// torch's tensors and storages and OrderedDict. Anything else is refused by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace train_sft::pickle {

enum class Kind {
  none,
  boolean,
  integer,
  number,
  text,
  list,
  tuple,
  dictionary,
  global,
  storage,
  tensor
};

// Objects by their place in Document::objects: shared and circular references are plain numbers.
using Ref = uint32_t;

struct Object {
  Kind kind = Kind::none;
  int64_t integer = 0;  // also booleans, and a tensor's offset in elements
  double number = 0;
  std::string text;        // also "module name" of a global, and a storage's key
  std::vector<Ref> items;  // a dictionary's are key, value, key, value, ...
  // tensor: its storage in items[0]
  std::vector<int64_t> shape, strides;  // in elements
  std::string storage_class;            // storage: "FloatStorage"
};

struct Document {
  std::vector<Object> objects;
  Ref root = 0;

  const Object& at(Ref ref) const { return objects[ref]; }
  // The value of a text key of a dictionary; nullptr when there is none.
  const Object* find(const Object& dictionary, const std::string& key) const;
};

// Throws CheckpointError naming `where` and the byte.
Document parse(std::span<const std::byte> bytes, const std::string& where);

}  // namespace train_sft::pickle
