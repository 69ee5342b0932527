// What each format's fields become: real spellings, and what is refused.
#include <gmock/gmock.h>
#include <zlib.h>
#include <zstd.h>

#include "data/field_map.h"
#include "data/tool_calls.h"
#include "unit/data/data_fixture.h"

namespace train_sft {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class FormatsTest : public DataFixture {
 protected:
  FormatsTest() { config.block_size = 4096; }
  // What a file's examples read as, special tokens left out.
  std::string text_of(const std::string& name, const std::string& json) {
    config.data = {write(name, json)};
    return tokenizer.decode(load().train.tokens.all());
  }
};

std::string gzipped(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(compressBound(text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstandard(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

TEST_F(FormatsTest, ShareGptRolesAndItsOtherSpelling) {
  const char* expected =
      "system\nbe brief\nuser\nq\nassistant\n{\"name\": \"f\"}\ntool\n42\nassistant\na";
  EXPECT_EQ(text_of("a.json", R"([{"conversations":[{"from":"system","value":"be brief"},
      {"from":"human","value":"q"},{"from":"function_call","value":"{\"name\": \"f\"}"},
      {"from":"observation","value":"42"},{"from":"gpt","value":"a"}]}])"),
            expected);
  EXPECT_EQ(text_of("b.json", R"([{"system":"be brief","conversations":[
      {"role":"user","content":"q"},{"role":"assistant","content":"{\"name\": \"f\"}"},
      {"role":"tool","content":"42"},{"role":"assistant","content":"a"}]}])"),
            expected);
}

TEST_F(FormatsTest, ToolsGoIntoTheSystemMessage) {
  EXPECT_EQ(text_of("a.json", R"([{"system":"s","tools":"[{\"name\": \"f\"}]","conversations":[
      {"from":"human","value":"q"},{"from":"gpt","value":"a"}]}])"),
            "system\ns\n\nTools:\n[{\"name\": \"f\"}]\nuser\nq\nassistant\na");
  EXPECT_EQ(text_of("b.json", R"([{"tools":[{"name":"f","n":[1,2.5,null]}],"messages":[
      {"role":"user","content":"q"},{"role":"assistant","content":"a"}]}])"),
            "system\nTools:\n[{\"name\": \"f\", \"n\": [1, 2.5, null]}]\nuser\nq\nassistant\na");
  EXPECT_EQ(text_of("c.json", R"([{"tools":"[]","conversations":[
      {"from":"human","value":"q"},{"from":"gpt","value":"a"}]}])"),
            "user\nq\nassistant\na");
}

TEST_F(FormatsTest, ToolCallsAreOneLineOfJsonEach) {
  const std::string expected =
      "user\nq\nassistant\nlet me see\n{\"name\": \"f\", \"arguments\": {\"x\": [1, 2], \"é\": "
      "\"\\\"\"}}\n{\"name\": \"g\", \"arguments\": {}}\ntool\n3\nassistant\na";
  EXPECT_EQ(text_of("a.jsonl", R"({"messages":[{"role":"user","content":"q"},)"
                               R"({"role":"assistant","content":"let me see","tool_calls":[)"
                               R"({"id":"1","type":"function","function":{"name":"f","arguments":)"
                               R"("{\"x\":[1,2],\"é\":\"\\\"\"}"}},{"name":"g"}]},)"
                               R"({"role":"tool","tool_call_id":"1","content":"3"},)"
                               R"({"role":"assistant","content":"a"}]})"),
            expected);
  EXPECT_EQ(text_of("b.jsonl",
                    R"({"messages":[{"role":"user","content":"q"},{"role":"assistant",)"
                    R"("content":null,"function_call":{"name":"f","arguments":"not json"}}]})"),
            "user\nq\nassistant\n{\"name\": \"f\", \"arguments\": \"not json\"}");
  EXPECT_THAT(
      error_of("c.jsonl",
               R"({"messages":[{"role":"assistant","content":"a","tool_calls":[{"f":1}]}]})"),
      AllOf(HasSubstr("c.jsonl:1"), HasSubstr("'tool_calls'")));
}

TEST_F(FormatsTest, PromptAndCompletionMayBeMessages) {
  EXPECT_EQ(text_of("a.jsonl", R"({"prompt":[{"role":"system","content":"s"},)"
                               R"({"role":"user","content":"q"}],"completion":)"
                               R"([{"role":"assistant","content":"a"}]})"),
            "system\ns\nuser\nq\nassistant\na");
  EXPECT_EQ(text_of("b.jsonl", R"({"prompt":"q","response":"a"})"), "user\nq\nassistant\na");
}

TEST_F(FormatsTest, FieldsMayHaveOtherNames) {
  config.field_map = {"instruction=question,output=answer"};
  EXPECT_EQ(text_of("a.jsonl", R"({"question":"q","answer":"a","input":"i"})"),
            "user\nq\ni\nassistant\na");
  config.field_map = {"conversations=turns", "role=speaker", "content=said"};
  EXPECT_EQ(text_of("b.jsonl", R"({"turns":[{"speaker":"user","said":"q"},)"
                               R"({"speaker":"assistant","said":"a"}]})"),
            "user\nq\nassistant\na");
  config.field_map = {"instruction=output,output=instruction"};  // exchanged
  EXPECT_EQ(text_of("c.jsonl", R"({"instruction":"a","output":"q"})"), "user\nq\nassistant\na");
  config.field_map = {"text=body"};
  EXPECT_EQ(text_of("d.jsonl", R"({"body":"the cat"})"), "the cat");
}

TEST_F(FormatsTest, AFieldMapThatDoesNotFitSaysSo) {
  config.field_map = {"instruction=question,output=answer"};
  EXPECT_THAT(error_of("a.jsonl",
                       "{\"question\":\"q\",\"answer\":\"a\"}\n{\"question\":\"q\",\"reply\":1}"),
              AllOf(HasSubstr("a.jsonl:2"), HasSubstr("'output'"), HasSubstr("output=answer")));
  config.field_map = {"question=instruction"};
  EXPECT_THAT(error_of("a.jsonl", R"({"text":"x"})"),
              AllOf(testing::StartsWith("2 "), HasSubstr("'question'"), HasSubstr("instruction")));
  config.field_map = {"instruction"};
  EXPECT_THAT(error_of("a.jsonl", R"({"text":"x"})"), HasSubstr("field_map=instruction=question"));
  config.field_map = {};
  EXPECT_THAT(error_of("a.jsonl", R"({"question":"q","answer":"a"})"), HasSubstr("--field_map"));
}

TEST_F(FormatsTest, AssignmentsAreSeparatedByCommas) {
  EXPECT_EQ(
      parse_assignments({"name=NanoBot,author=Ada, Grace and co,empty=", "x==,y"}, "o", "e"),
      (Assignments{
          {"name", "NanoBot"}, {"author", "Ada, Grace and co"}, {"empty", ""}, {"x", "=,y"}}));
  EXPECT_THROW(parse_assignments({"=x"}, "o", "e"), UsageError);
  EXPECT_THROW(parse_assignments({""}, "o", "e"), UsageError);
}

TEST_F(FormatsTest, CompressedFilesReadAsTheirContents) {
  const std::string lines = "{\"prompt\":\"q\",\"completion\":\"a\"}\n";
  const std::string plain = text_of("a.jsonl", lines + lines);
  EXPECT_EQ(text_of("a.jsonl.gz", gzipped(lines + lines)), plain);
  EXPECT_EQ(text_of("b.jsonl.gz", gzipped(lines) + gzipped(lines)), plain) << "two members";
  EXPECT_EQ(text_of("a.jsonl.zst", zstandard(lines + lines)), plain);
  EXPECT_EQ(text_of("b.jsonl.zst", zstandard(lines) + zstandard(lines)), plain) << "two frames";
  EXPECT_EQ(text_of("named_wrongly.jsonl", gzipped(lines + lines)), plain);
  EXPECT_EQ(text_of("a.json.gz", gzipped("[" + lines + "," + lines + "]")), plain);
  EXPECT_EQ(text_of("a.txt.zst", zstandard("the cat\n")), "the cat\n");
}

TEST_F(FormatsTest, DamagedCompressionIsADataError) {
  std::string lines;
  for (int i = 0; i < 3000; ++i) lines += fmt::format("{{\"text\":\"the cat {}\"}}\n", i * 7919);
  for (const bool gzip : {true, false}) {
    const char* name = gzip ? "a.jsonl.gz" : "a.jsonl.zst";
    const std::string whole = gzip ? gzipped(lines) : zstandard(lines);
    for (size_t cut : {whole.size() - 1, whole.size() / 2, size_t{12}, size_t{5}}) {
      EXPECT_THAT(error_of(name, whole.substr(0, cut)),
                  AllOf(testing::StartsWith("3 "), HasSubstr("cut short")))
          << name << " " << cut;
    }
    std::string flipped = whole;
    flipped[whole.size() / 2] = static_cast<char>(flipped[whole.size() / 2] ^ 0x55);
    EXPECT_THAT(error_of(name, flipped), testing::StartsWith("3 ")) << name;
  }
  EXPECT_THAT(error_of("a.txt.gz", gzipped("")), HasSubstr("empty"));
}

TEST_F(FormatsTest, ABombIsRefusedBeforeItFillsTheMemory) {
  // 1.2 GB of spaces in a few kilobytes (zstd repeats the frame's content; frames are repeated).
  const std::string frame = zstandard(std::string(size_t{64} << 20, ' '));
  std::string bomb;
  for (int i = 0; i < 18; ++i) bomb += frame;
  EXPECT_THAT(error_of("a.jsonl.zst", bomb), HasSubstr("unpacks to more than"));
}

TEST_F(FormatsTest, KnownBinaryFormatsNameTheRemedy) {
  EXPECT_THAT(error_of("a.parquet", std::string("PAR1\x15\xFF\x00", 7) + "PAR1"),
              AllOf(HasSubstr("Parquet"), HasSubstr("scripts/to_jsonl.py")));
  EXPECT_THAT(error_of("a.json", "PAR1 all in ASCII PAR1"), HasSubstr("Parquet"));
  EXPECT_THAT(error_of("a.txt", "\xFF\xFE" + std::string("a\0b\0", 4)), HasSubstr("UTF-16"));
  EXPECT_THAT(error_of("a.jsonl", std::string("PK\x03\x04\xFF\xFE", 6)), HasSubstr("zip"));
}

TEST_F(FormatsTest, LimitsOfDepthAndNumbers) {
  EXPECT_THAT(error_of("a.jsonl", "{\"text\": \"x\"}\n{\"messages\": " + std::string(300, '[') +
                                      std::string(300, ']') + "}"),
              AllOf(HasSubstr("a.jsonl:2"), HasSubstr("nested deeper")));
  EXPECT_THAT(error_of("a.jsonl", R"({"text": "x", "n": 1e999})"),
              AllOf(testing::StartsWith("3 "), HasSubstr("a.jsonl:1")));
}

}  // namespace
}  // namespace train_sft
