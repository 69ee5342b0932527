#include "train_sft/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "train_sft/base/error.h"
#include "train_sft/base/json_text.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::string& text) {
  try {
    parse_json(text, "f.json");
  } catch (const DataError& error) {
    return error.what();
  }
  return "(no error)";
}

TEST(JsonTest, MalformedTextIsNamedByLineAndColumn) {
  EXPECT_THAT(error_of("{\n  \"a\": 1,\n  oops\n}"), HasSubstr("f.json:3:3: malformed JSON"));
  EXPECT_THAT(error_of(""), HasSubstr("f.json:1:1: malformed JSON"));
  EXPECT_THAT(error_of("{\"a\": 1"), HasSubstr("f.json:1:8"));
}

TEST(JsonTest, HostileTextIsRefused) {
  EXPECT_THAT(error_of(std::string(100000, '[')), HasSubstr("deeper than 256"));
  EXPECT_THAT(error_of("\"\xff\""), HasSubstr("UTF-8"));
  EXPECT_THAT(error_of("1e999"), HasSubstr("f.json"));
  EXPECT_EQ(error_of(std::string(256, '[') + std::string(256, ']')), "(no error)");
  EXPECT_EQ(error_of("\"" + std::string(1000, '[') + "\\\"[\""), "(no error)");
}

TEST(JsonTest, AnObjectOfVeryManyMembersIsRefusedBeforeItIsBuilt) {
  std::string members, list;
  for (int i = 0; i < 70000; ++i) {
    members += fmt::format("{}\"{}\":0", i > 0 ? "," : "", i);
    list += fmt::format("{}{{\"a:{{\\\"\":[]}}", i > 0 ? "," : "", i);
  }
  EXPECT_THAT(error_of("[0,{" + members + "}]"), HasSubstr("more than 65536 members"));
  EXPECT_EQ(error_of("[" + list + "]"), "(no error)");
  EXPECT_EQ(parse_map_json("{" + members + "}", "f.json").size(), 70000u);
}

TEST(JsonTest, LinesAreReadAsFarAsTheyAreWhole) {
  std::vector<int> seen;
  const auto read = [&](const std::string& text, int most = 9) {
    seen.clear();
    return read_json_lines(text, [&](Json&& line) {
      const int value = line.value("a", -1);
      if (value > most) return false;
      seen.push_back(value);
      return true;
    });
  };
  const std::string two = "{\"a\":1}\n{\"a\":2}\n";
  for (const char* end : {"", "{\"a\":3}", "{\"a\"\n{\"a\":4}\n", "[3]\n{\"a\":4}\n", "\n"}) {
    EXPECT_EQ(read(two + end), two.size()) << end;
    EXPECT_THAT(seen, ::testing::ElementsAre(1, 2)) << end;
  }
  EXPECT_EQ(read(two, 1), two.size() / 2);
  EXPECT_THAT(seen, ::testing::ElementsAre(1));
}

TEST(JsonTest, FieldsKeepTheirOrder) {
  EXPECT_EQ(dump_json(parse_json(R"({"z":1,"a":[2]})", ""), -1), "{\"z\":1,\"a\":[2]}\n");
}

TEST(JsonTest, TypedAccessNamesTheField) {
  const Json object = parse_json(R"({"s":"x","i":3,"d":1.5,"big":18446744073709551615})", "f");
  EXPECT_EQ(json_string(object, "s", "f"), "x");
  EXPECT_EQ(json_int(object, "i", "f"), 3);
  EXPECT_EQ(json_number(object, "d", "f"), 1.5);
  EXPECT_EQ(json_number(object, "i", "f"), 3.0);
  const auto message = [&](auto access) {
    try {
      access();
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("(no error)");
  };
  EXPECT_THAT(message([&] { json_int(object, "d", "f"); }), HasSubstr("field 'd'"));
  EXPECT_THAT(message([&] { json_int(object, "big", "f"); }), HasSubstr("too large"));
  EXPECT_THAT(message([&] { json_string(object, "none", "f"); }), HasSubstr("no field 'none'"));
  EXPECT_THAT(message([&] { json_string(object["s"], "x", "f"); }), HasSubstr("a JSON object"));
}

TEST(JsonTest, BytesThatAreNotUtf8AreReplacedInOutput) {
  EXPECT_EQ(dump_json(Json("a\xff"), -1), "\"a\xEF\xBF\xBD\"\n");
}

}  // namespace
}  // namespace train_sft
