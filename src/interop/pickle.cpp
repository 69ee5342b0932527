#include "interop/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "train_sft/base/error.h"

namespace train_sft::pickle {
namespace {

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersistentId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

constexpr uint8_t kNewestProtocol = 4;
constexpr size_t kMaxObjects = 1 << 20;  // a model of a thousand layers has a tenth of it
constexpr size_t kMaxDimensions = 16;
constexpr size_t kMaxArguments = 16;
// Of a storage or a class: a few bytes can repeat one any number of times.
constexpr size_t kMaxNameBytes = 256;

bool is_storage(const std::string& global) {
  return global.starts_with("torch ") && global.ends_with("Storage") &&
         global.find('.') == global.npos;
}

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  Document run() {
    while (step(byte())) {
    }
    document_.root = pop();
    return std::move(document_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw CheckpointError("{}: byte {} of the pickle: {}", where_, at_,
                          fmt::format(format, std::forward<Args>(args)...));
  }

  // -- bytes
  std::span<const std::byte> take(uint64_t count) {
    if (count > bytes_.size() - at_) fail("{} bytes needed, but it ends; it was cut off", count);
    const auto taken = bytes_.subspan(at_, count);
    at_ += count;
    return taken;
  }
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  uint8_t byte() { return number<uint8_t>(); }
  std::string text(uint64_t count) {
    const auto taken = take(count);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  std::string line() {
    std::string text;
    for (char c = 0; (c = static_cast<char>(byte())) != '\n';) text += c;
    return text;
  }

  // -- objects
  Object& object(Ref ref) { return document_.objects[ref]; }
  void push(Object object) {
    if (document_.objects.size() == kMaxObjects) fail("more than {} objects", kMaxObjects);
    stack_.push_back(static_cast<Ref>(document_.objects.size()));
    document_.objects.push_back(std::move(object));
  }
  void push(Kind kind) {
    Object object;
    object.kind = kind;
    push(std::move(object));
  }
  void push_integer(int64_t value, Kind kind = Kind::integer) {
    Object object;
    object.kind = kind;
    object.integer = value;
    push(std::move(object));
  }
  void push_text(std::string value) {
    Object object;
    object.kind = Kind::text;
    object.text = std::move(value);
    push(std::move(object));
  }
  Ref top() {
    if (stack_.size() <= floor()) fail("an object is missing on its stack");
    return stack_.back();
  }
  Ref pop() {
    const Ref ref = top();
    stack_.pop_back();
    return ref;
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::vector<Ref> pop_to_mark() {
    if (marks_.empty()) fail("a mark is missing on its stack");
    std::vector<Ref> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  void push_tuple(std::vector<Ref> items) {
    Object object;
    object.kind = Kind::tuple;
    object.items = std::move(items);
    push(std::move(object));
  }
  void push_popped_tuple(size_t count) {
    std::vector<Ref> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push_tuple(std::move(items));
  }

  // -- opcodes
  bool step(uint8_t opcode);
  bool constant(uint8_t opcode);
  bool memo(uint8_t opcode);
  bool container(uint8_t opcode);
  void long1();
  void global(const std::string& module, const std::string& name);
  void persistent_id();
  void reduce();
  void build();
  void rebuild_tensor(const Object& arguments);
  void extend(Kind kind, const std::vector<Ref>& items);
  std::vector<int64_t> integers(Ref ref);

  std::span<const std::byte> bytes_;
  const std::string& where_;
  size_t at_ = 0;
  Document document_;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, Ref> memo_;
};

bool Machine::constant(uint8_t opcode) {
  switch (opcode) {
    case kNone:
      push(Kind::none);
      return true;
    case kNewTrue:
      push_integer(1, Kind::boolean);
      return true;
    case kNewFalse:
      push_integer(0, Kind::boolean);
      return true;
    case kBinInt:
      push_integer(number<int32_t>());
      return true;
    case kBinInt1:
      push_integer(byte());
      return true;
    case kBinInt2:
      push_integer(number<uint16_t>());
      return true;
    case kLong1:
      long1();
      return true;
    case kBinUnicode:
      push_text(text(number<uint32_t>()));
      return true;
    case kShortBinUnicode:
      push_text(text(byte()));
      return true;
    case kBinFloat: {
      Object object;
      object.kind = Kind::number;
      object.number = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()));
      push(std::move(object));
      return true;
    }
    default:
      return false;
  }
}

void Machine::long1() {
  const uint8_t count = byte();
  if (count > 8) fail("an integer of {} bytes", count);
  const auto digits = take(count);
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value |= std::to_integer<uint64_t>(digits[i]) << (8 * i);
  if (count > 0 && count < 8 && (value >> (8 * count - 1) & 1) != 0) value |= ~0ULL << (8 * count);
  push_integer(static_cast<int64_t>(value));
}

bool Machine::memo(uint8_t opcode) {
  const auto get = [&](uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) fail("it recalls object {}, which it did not store", key);
    stack_.push_back(found->second);
    return true;
  };
  switch (opcode) {
    case kBinGet:
      return get(byte());
    case kLongBinGet:
      return get(number<uint32_t>());
    case kBinPut:
      memo_[byte()] = top();
      return true;
    case kLongBinPut:
      memo_[number<uint32_t>()] = top();
      return true;
    case kMemoize:
      memo_[static_cast<uint32_t>(memo_.size())] = top();
      return true;
    default:
      return false;
  }
}

bool Machine::container(uint8_t opcode) {
  switch (opcode) {
    case kMark:
      marks_.push_back(stack_.size());
      return true;
    case kEmptyDict:
      push(Kind::dictionary);
      return true;
    case kEmptyList:
      push(Kind::list);
      return true;
    case kEmptyTuple:
      push(Kind::tuple);
      return true;
    case kTuple:
      push_tuple(pop_to_mark());
      return true;
    case kTuple1:
      push_popped_tuple(1);
      return true;
    case kTuple2:
      push_popped_tuple(2);
      return true;
    case kTuple3:
      push_popped_tuple(3);
      return true;
    case kAppend: {
      const Ref item = pop();
      extend(Kind::list, {item});
      return true;
    }
    case kSetItem: {
      const Ref value = pop(), key = pop();
      extend(Kind::dictionary, {key, value});
      return true;
    }
    case kAppends:
    case kSetItems: {
      const std::vector<Ref> items = pop_to_mark();
      extend(opcode == kAppends ? Kind::list : Kind::dictionary, items);
      return true;
    }
    default:
      return false;
  }
}

// The list or dictionary on top of the stack.
void Machine::extend(Kind kind, const std::vector<Ref>& items) {
  Object& container = object(top());
  if (container.kind != kind) fail("items for something that does not hold such");
  if (kind == Kind::dictionary && items.size() % 2 != 0) fail("a key without a value");
  container.items.insert(container.items.end(), items.begin(), items.end());
}

void Machine::global(const std::string& module, const std::string& name) {
  if (module.size() + name.size() > kMaxNameBytes)
    fail("a Python object's name of {} bytes", module.size() + name.size());
  Object object;
  object.kind = Kind::global;
  object.text = module + " " + name;
  if (object.text != "collections OrderedDict" &&
      object.text != "torch._utils _rebuild_tensor_v2" &&
      object.text != "torch._utils _rebuild_parameter" && !is_storage(object.text))
    fail(
        "it names the Python object '{}.{}'; only tensors, numbers, texts, lists and dictionaries "
        "are read, and nothing is executed. Save the model's state_dict alone, or as safetensors",
        module, name);
  push(std::move(object));
}

// ('storage', class, key, device, elements)
void Machine::persistent_id() {
  const Object id = object(pop());
  const bool whole =
      id.kind == Kind::tuple && id.items.size() == 5 && object(id.items[0]).text == "storage" &&
      object(id.items[1]).kind == Kind::global && is_storage(object(id.items[1]).text) &&
      object(id.items[2]).kind == Kind::text && object(id.items[4]).kind == Kind::integer;
  if (!whole) fail("a reference to something other than a storage");
  if (object(id.items[2]).text.size() > kMaxNameBytes)
    fail("a storage's name of {} bytes", object(id.items[2]).text.size());
  Object storage;
  storage.kind = Kind::storage;
  storage.storage_class = object(id.items[1]).text.substr(std::string("torch ").size());
  storage.text = object(id.items[2]).text;
  push(std::move(storage));
}

std::vector<int64_t> Machine::integers(Ref ref) {
  const Object& tuple = object(ref);
  if (tuple.kind != Kind::tuple || tuple.items.size() > kMaxDimensions)
    fail("a tensor's shape is not a tuple of at most {} numbers", kMaxDimensions);
  std::vector<int64_t> values;
  for (const Ref item : tuple.items) {
    if (object(item).kind != Kind::integer || object(item).integer < 0)
      fail("a tensor's shape holds something other than sizes");
    values.push_back(object(item).integer);
  }
  return values;
}

// (storage, offset, size, stride, requires_grad, hooks)
void Machine::rebuild_tensor(const Object& arguments) {
  if (arguments.items.size() < 4 || object(arguments.items[0]).kind != Kind::storage ||
      object(arguments.items[1]).kind != Kind::integer || object(arguments.items[1]).integer < 0)
    fail("a tensor is not made of a storage, an offset, a shape and strides");
  Object tensor;
  tensor.kind = Kind::tensor;
  tensor.items = {arguments.items[0]};
  tensor.integer = object(arguments.items[1]).integer;
  tensor.shape = integers(arguments.items[2]);
  tensor.strides = integers(arguments.items[3]);
  if (tensor.shape.size() != tensor.strides.size()) fail("a tensor has other strides than sizes");
  push(std::move(tensor));
}

void Machine::reduce() {
  if (object(top()).items.size() > kMaxArguments) fail("a call with too many arguments");
  const Object arguments = object(pop()), callable = object(pop());
  if (callable.kind != Kind::global || arguments.kind != Kind::tuple)
    fail("a call of something other than a known function");
  if (callable.text == "collections OrderedDict") {
    if (!arguments.items.empty()) fail("an OrderedDict with arguments");
    push(Kind::dictionary);
  } else if (callable.text == "torch._utils _rebuild_tensor_v2") {
    rebuild_tensor(arguments);
  } else if (callable.text == "torch._utils _rebuild_parameter" && !arguments.items.empty() &&
             object(arguments.items[0]).kind == Kind::tensor) {
    stack_.push_back(arguments.items[0]);
  } else {
    fail("a call of '{}'", callable.text);
  }
}

// Attributes of an OrderedDict (a state dict's _metadata) say nothing about the weights.
void Machine::build() {
  const Ref attributes = pop();
  if (object(attributes).kind != Kind::dictionary || object(top()).kind != Kind::dictionary)
    fail("attributes for what is no OrderedDict");
}

bool Machine::step(uint8_t opcode) {
  if (constant(opcode) || memo(opcode) || container(opcode)) return true;
  switch (opcode) {
    case kStop:
      return false;
    case kProto:
      if (const uint8_t version = byte(); version > kNewestProtocol)
        fail("pickle protocol {}; up to {} are read", version, kNewestProtocol);
      return true;
    case kFrame:
      number<uint64_t>();
      return true;
    case kPop:
      pop();
      return true;
    case kGlobal: {
      const std::string module = line();
      global(module, line());
      return true;
    }
    case kStackGlobal: {
      const Object name = object(pop()), module = object(pop());
      if (name.kind != Kind::text || module.kind != Kind::text) fail("a name that is no text");
      global(module.text, name.text);
      return true;
    }
    case kBinPersistentId:
      persistent_id();
      return true;
    case kReduce:
      reduce();
      return true;
    case kBuild:
      build();
      return true;
    default:
      fail("opcode 0x{:02x} is not one of plain data; nothing is executed here", opcode);
  }
}

}  // namespace

const Object* Document::find(const Object& dictionary, const std::string& key) const {
  if (dictionary.kind != Kind::dictionary) return nullptr;
  for (size_t i = 0; i + 1 < dictionary.items.size(); i += 2) {
    const Object& name = at(dictionary.items[i]);
    if (name.kind == Kind::text && name.text == key) return &at(dictionary.items[i + 1]);
  }
  return nullptr;
}

Document parse(std::span<const std::byte> bytes, const std::string& where) {
  return Machine(bytes, where).run();
}

}  // namespace train_sft::pickle
