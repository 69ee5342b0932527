#include "train_sft/report/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "report/html.h"
#include "report/page_numbers.h"
#include "support/temporary_directory.h"
#include "train_sft/base/error.h"
#include "train_sft/base/file.h"
#include "train_sft/report/terminal.h"

namespace train_sft {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What data, settings and models may hold, in every place that a person can write to.
const char* const kHostile =
    "</script><script>alert(1)</script><img src=x onerror=\"alert('2')\">&";

std::string metrics_line(int64_t step, double loss, const std::string& more = "") {
  return fmt::format(
      R"({{"step": {}, "epoch": {}, "tokens": {}, "loss": {}, "lr": 0.001, "grad_norm": 0.5, )"
      R"("tokens_per_s": 20000, "step_ms": 100, "memory_bytes": 1000000{}}})"
      "\n",
      step, static_cast<double>(step) / 100, step * 1000, loss, more);
}

class RunDirectory {
 public:
  explicit RunDirectory(const std::string& name = "run") : path_(directory_ / name) {
    make_directories(path_);
    std::string lines;
    for (int64_t step = 10; step <= 100; step += 10)
      lines += metrics_line(
          step, 5.0 - 0.02 * static_cast<double>(step),
          step % 50 == 0 ? fmt::format(", \"val_loss\": {}", 5.1 - 0.02 * static_cast<double>(step))
                         : "");
    write("metrics.jsonl", lines);
  }
  void write(const std::string& name, const std::string& text) {
    write_file_atomically(join_path(path_, name), text);
  }
  void write(const std::string& name, const Json& json) { write(name, dump_json(json)); }
  const std::string& path() const { return path_; }

 private:
  TemporaryDirectory directory_;
  std::string path_;
};

void fill_with(RunDirectory& run, const std::string& text) {
  run.write("config.json", Json{{"data", {text}},
                                {"learning_rate", 1e-3},
                                {text, text},
                                {"_source", {{"data", text}, {text, text}}}});
  const Json report = {{"examples", 3},
                       {"tokens", 100},
                       {"learned_tokens", 40},
                       {"rows", 2},
                       {"fill", 0.9},
                       {"dropped", {{text, 2}}},
                       {"length_percentiles", {1, 2, 3, 4, 5, 6, 7}}};
  const Json example = {{"tokens", 9},
                        {"learned", 4},
                        {"shown", 9},
                        {"segments",
                         {{{"text", "ask " + text}, {"learned", false}},
                          {{"text", "say " + text}, {"learned", true}}}}};
  run.write(
      "run.json",
      Json{{"data",
            {{"files", {text}}, {"val_files", {text}}, {"train", report}, {"examples", {example}}}},
           {"model", {{"family", text}, {"params", 1234567}}},
           {"starts", {{{"time", text}, {"step", 0}, {"how", text}}}},
           {"ended", {{"time", text}, {"summary", {{"stopped_by", "max_iters"}}}}}});
  run.write("samples.jsonl", Json{{"step", 50}, {"prompt", text}, {"sample", text}}.dump() + "\n");
}

TEST(HtmlTest, EscapesWhatMeansSomethingToABrowser) {
  EXPECT_EQ(html::escape("a<b>&\"'\n\tc"), "a&lt;b&gt;&amp;&quot;&#39;\n\tc");
  EXPECT_EQ(html::escape(std::string("\0\x1b[2J\x7f", 6)),
            "\xEF\xBF\xBD\xEF\xBF\xBD[2J\xEF\xBF\xBD");
  EXPECT_EQ(html::escape("ä€😀"), "ä€😀");
  for (const char* ill :
       {"\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe0\x80\x80", "\x80"})
    EXPECT_THAT(html::escape(std::string(ill) + "<"), ::testing::EndsWith("\xEF\xBF\xBD&lt;"))
        << ill;
}

TEST(HtmlTest, JsonInAScriptElementCannotEndIt) {
  const Json json = {{"name", std::string("</script><!--&\xE2\x80\xA8")}};
  const std::string text = html::escape_json(json.dump());
  EXPECT_THAT(text, Not(HasSubstr("<")));
  EXPECT_THAT(text, Not(HasSubstr("&")));
  EXPECT_THAT(text, Not(HasSubstr("\xE2\x80\xA8")));
  EXPECT_EQ(Json::parse(text), json);
}

TEST(PageTest, HostileTextNeverBecomesMarkup) {
  RunDirectory run;
  fill_with(run, kHostile);
  RunFiles files = read_run(run.path());
  files.name = kHostile;
  for (const std::string& page :
       {html_page({&files, 1}), html_page(std::vector<RunFiles>{files, files})}) {
    EXPECT_THAT(page, Not(HasSubstr("<img")));
    EXPECT_THAT(page, Not(HasSubstr("<script>")));
    EXPECT_THAT(page, HasSubstr("&lt;img src=x onerror=&quot;"));
    size_t scripts = 0;
    for (size_t at = 0; (at = page.find("<script", at)) != std::string::npos; ++at) ++scripts;
    EXPECT_EQ(scripts, 2u);  // the numbers and the program
  }
}

TEST(PageTest, LoadsNothing) {
  RunDirectory run;
  fill_with(run, "text");
  const RunFiles files = read_run(run.path());
  const std::string page = html_page({&files, 1});
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  for (const char* word : {"src=", "href=", "@import", "url(http", "//cdn"})
    EXPECT_THAT(page, Not(HasSubstr(word))) << word;
}

TEST(PageTest, ShowsWhatTheRunsFilesSay) {
  RunDirectory run;
  fill_with(run, "plain");
  const RunFiles files = read_run(run.path());
  const std::string page = html_page({&files, 1});
  EXPECT_THAT(page, HasSubstr("Done after 100 steps (1.00 epochs, 100,000 tokens) in 10 s: best "
                              "validation loss 3.1000"));
  EXPECT_THAT(page, HasSubstr("<mark>say plain</mark>"));
  EXPECT_THAT(page, HasSubstr("1,234,567"));
  EXPECT_THAT(page, HasSubstr("40.0 %"));     // learned
  EXPECT_THAT(page, HasSubstr("2 plain; "));  // dropped
}

TEST(PageTest, ARunWithNothingButTornMetricsHasAPage) {
  RunDirectory run;
  run.write("metrics.jsonl", metrics_line(1, 5) + metrics_line(2, 4).substr(0, 20));
  const RunFiles files = read_run(run.path());
  EXPECT_EQ(files.records.size(), 1u);
  EXPECT_THAT(html_page({&files, 1}), HasSubstr("Not finished after 1 steps"));
  EXPECT_THAT(markdown_card(files), HasSubstr("training loss"));
  run.write("metrics.jsonl", std::string());
  const RunFiles empty = read_run(run.path());
  EXPECT_THAT(html_page({&empty, 1}), HasSubstr("after 0 steps"));
  EXPECT_FALSE(terminal_view(empty, {80, 24}).empty());
}

TEST(PageTest, FilesOfOtherTypesThanExpectedAreNoCrash) {
  RunDirectory run;
  for (const char* card :
       {R"({"data": 3, "model": [1], "length": {"max_iters": "x"}, "ended": 7})",
        R"({"data": {"train": {"length_percentiles": ["a",1,2,3,4,5,6], "dropped": []},
                               "files": "x", "examples": [1, {"segments": [null, {"text": 5}]}]}, "starts": [3]})",
        R"({"process": {"pid": -1, "host": 4}, "ended": {"summary": {"stopped_by": {}}}})"}) {
    run.write("run.json", std::string(card));
    const RunFiles files = read_run(run.path());
    EXPECT_THAT(html_page({&files, 1}), HasSubstr("</html>"));
    EXPECT_THAT(markdown_card(files), HasSubstr("# run"));
    EXPECT_TRUE(watch_json(files).is_object());
  }
  run.write("run.json", std::string("[]"));
  EXPECT_THROW(read_run(run.path()), DataError);
}

TEST(PageTest, SeveralRunsAreComparedByTheSettingsThatDiffer) {
  RunDirectory a("a"), b("b");
  a.write("config.json", Json{{"learning_rate", 1e-3}, {"batch_size", 8}, {"out_dir", "a"}});
  b.write("config.json", Json{{"learning_rate", 5e-3}, {"batch_size", 8}, {"out_dir", "b"}});
  const std::vector<RunFiles> runs = {read_run(a.path()), read_run(b.path())};
  const std::string page = html_page(runs);
  const std::string comparison = page.substr(page.find("Settings that differ"), 700);
  EXPECT_THAT(
      comparison,
      HasSubstr(
          "<td>learning_rate</td><td class=\"long\">0.001</td><td class=\"long\">0.005</td>"));
  EXPECT_THAT(comparison.substr(0, comparison.find("</table>")), Not(HasSubstr("batch_size")));
}

TEST(PageTest, ADirectoryWithoutARunIsAnError) {
  const TemporaryDirectory directory;
  EXPECT_THROW(read_run(directory.path()), DataError);
  EXPECT_THROW(read_run(directory / "none"), DataError);
}

TEST(PageTest, LongRunsAreThinnedAndKeepEverySpike) {
  std::vector<Record> records(20000);
  for (size_t i = 0; i < records.size(); ++i) {
    records[i].step = static_cast<int64_t>(i);
    records[i].loss = 2 + 0.1 * std::sin(static_cast<double>(i));
  }
  records[7777].loss = 50;
  records[12345].loss = 0.1;
  const auto kept = thinned(records, 3000);
  EXPECT_LE(kept.size(), 3001u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  for (const size_t must : {size_t{0}, size_t{7777}, size_t{12345}, size_t{19999}})
    EXPECT_THAT(kept, ::testing::Contains(must));
}

TEST(MarkdownTest, TextOfTheRunStaysText) {
  RunDirectory run;
  fill_with(run, "a|b\n```\n# <b>");
  const std::string card = markdown_card(read_run(run.path()));
  EXPECT_THAT(card, ::testing::StartsWith("---\nlibrary_name: transformers\n"));
  EXPECT_THAT(card, HasSubstr("a\\|b \\`\\`\\` # \\<b\\>"));
  EXPECT_THAT(card, HasSubstr("````text\n"));  // a fence longer than what it holds
}

TEST(TerminalTest, NothingPrintedCommandsTheTerminal) {
  RunDirectory run;
  fill_with(run,
            "red \x1b[31m bell \x07 c1 \xc2\x9b"
            "2J");
  const RunFiles files = read_run(run.path());
  for (const std::string& line : terminal_view(files, {100, 40}))
    for (const char c : line)
      EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) << line;
  EXPECT_EQ(printable("a\xc2\x9bZ\x1bq"), "a\xEF\xBF\xBDZ\xEF\xBF\xBDq");
}

TEST(TerminalTest, TheViewFitsTheTerminal) {
  RunDirectory run;
  fill_with(run,
            "a long text of many words that needs to be wrapped somewhere or it would not fit");
  const RunFiles files = read_run(run.path());
  for (const size_t columns : {20u, 60u, 80u, 200u})
    for (const size_t rows : {12u, 24u, 50u}) {
      const auto lines = terminal_view(files, {columns, rows});
      EXPECT_LE(lines.size(), rows);
      for (const std::string& line : lines)
        EXPECT_LE(
            std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; }),
            static_cast<long>(columns))
            << line;
    }
}

TEST(TerminalTest, BrailleDrawsWhereThePointsAre) {
  EXPECT_EQ(braille_curve({0, 3}, {0, 3}, 2, 1), (std::vector<std::string>{"⡠⠊"}));
  EXPECT_EQ(braille_curve({0, 1, 2, 3}, {0, NAN, NAN, 3}, 2, 1), (std::vector<std::string>{"⡀⠈"}));
  EXPECT_EQ(braille_curve({}, {}, 2, 1), (std::vector<std::string>{"⠀⠀"}));
}

}  // namespace
}  // namespace train_sft
