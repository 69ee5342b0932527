"""Chat templates against transformers, which renders them with Jinja2.

    python chat_template_test.py TEXT_TOOL [SHARED_DATA_FOLDER]

1. The interpreter of Jinja: the same text as Jinja2 with transformers' settings, or an error where Jinja2 has one.
2. Templates of other models: prompts of the same ids, or refused.
3. Our templates and one of a file, on every conversation of ../shared/data: the ids that a tokenizer saved by this
   program gives in apply_chat_template. The Mask contract sets one difference: a reply is encoded on its own, so that
   no token reaches over from the prompt. Expected is therefore transformers' text, cut where replies begin and encoded
   piece by piece by transformers; how many differ from apply_chat_template in one stretch is counted and printed.
"""

import json
import os
import subprocess
import sys
import tempfile

import jinja2
import transformers
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SMOLLM2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
           "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
           "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
QWEN3 = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
          "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
          "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
          "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
ZEPHYR = ("{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}"
          "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
          "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
          "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")
MISTRAL = ("{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
           "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
           "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
           "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}"
           "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}")
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
         "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}"
         "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
         "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")
NUMBERED = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + loop.index|string + '\n' + message['content'] "
            "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
SHOUTING = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('x', 'X') + '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
IMPORTING = "{% import 'x' as y %}" + SMOLLM2

FOREIGN = {"smollm2": SMOLLM2, "qwen2.5": QWEN25, "qwen3": QWEN3, "llama3": LLAMA3, "zephyr": ZEPHYR,
           "mistral": MISTRAL}
REFUSED = {"numbered": NUMBERED, "shouting": SHOUTING, "importing": IMPORTING, "not jinja": "{% if %}", "text": "hello"}

SNIPPETS = [
    "a\n{% if x %}\nb\n{% endif %}\nc\n", "  {% if x %}  b{% endif %}  c", "{%- if x -%}  b  {%- endif -%}  c",
    "a {# note #} b\n{# whole line #}\nc", "{{ x }}\n{{ y }}\n", "a\n  {{- x }}  \n b", "{{ x -}}   \n b",
    "{% for i in l %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in l if i != 'b' %}{{ loop.index }}{{ i }}{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for i in range(4) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set a = 1 %}{% for i in l %}{% set a = 2 %}{% endfor %}{{ a }}",
    "{% set ns = namespace(a=1) %}{% for i in l %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}",
    "{% if x %}{% set q = 'in' %}{% endif %}{{ q }}", "{% set q %}body {{ x }}{% endset %}{{ q | trim }}|",
    "{% macro m(a, b='B') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}",
    "{{ 'a' ~ 1 ~ none ~ true }}", "{{ 'ab' * 0 if false else 'no' }}", "{{ (1 + 2) * 3 - 4 // 3 % 2 }}", "{{ -7 // 2 }} {{ -7 % 3 }}",
    "{{ not x and y or 'z' }}", "{{ 'b' in l }} {{ 'q' not in l }} {{ 'k' in d }} {{ 'ell' in 'hello' }}",
    "{{ x is defined }} {{ nope is defined }} {{ none is none }} {{ x is string }} {{ l is sequence }} {{ d is mapping }}",
    "{{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ l is iterable }} {{ 1 is number }} {{ true is true }}",
    "{{ nope | default('d') }} {{ '' | default('e', true) }} {{ l | length }} {{ l | join('-') }} {{ l | first }}{{ l | last }}",
    "{{ ' \u00a0x\n' | trim }}|{{ 'aXbX'.split('X') | join('/') }}|{{ '--x--'.strip('-') }}|{{ 'abc'.replace('b', 'B') }}",
    "{{ d | tojson }} {{ 'é\"<' | tojson }}", "{{ d.k }} {{ d['k'] }} {{ d.get('q', 'w') }} {{ d.q }}|", "{{ l[0] }}{{ l[-1] }}{{ l[1:] | join }}",
    "{{ l[::-1] | join }}", "{{ 'it\\'s' }} {{ \"a\\tb\\\\n\" }}", "{{ 'A' if x else 'B' }}{{ 'C' if nope }}|", "{{ nope }}|{{ nope.x }}",
    "{{ 1 == 1.0 }} {{ 2 > 1 }} {{ 'a' < 'b' }} {{ 1 != 2 }}", "{{ 'UP'.lower() }}{{ 'low' | upper }}{{ 'x'.startswith('x') }}",
    "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ x.y.z }}", "{{ undefined_function() }}", "{% nonsense %}", "{{ 'open }}", "{% for %}",
    "{% if x %}", "{{ ((1) }}", "{{ x | nofilter }}", "{% for i in 3 %}{% endfor %}", "{{ l.append }}",
]
VARIABLES = {"x": "yes", "y": 0, "l": ["a", "b", "c"], "d": {"k": "v", "n": 2}}


def our_custom_file():
    return {"name": "mine", "begin": [{"token": "bos_token"}],
            "system": {"prefix": "[S] ", "suffix": "\n", "default": "You're \"it\"."},
            "user": {"prefix": "Q:  ", "suffix": "\n", "input": " | "},
            "assistant": {"prefix": ["A:", "\n"], "suffix": [{"token": "<|eot_id|>"}, "\n\n"]},
            "tool": {"prefix": [{"token": "<|im_start|>"}, "tool\n"], "suffix": ""}, "trim": True}


def messages_of(record):
    """As the README describes the formats."""
    if "instruction" in record:
        user = {"role": "user", "content": record["instruction"]}
        if record.get("input"):
            user["input"] = record["input"]
        return [user, {"role": "assistant", "content": record["output"]}]
    if "messages" in record:
        text = lambda c: c if isinstance(c, str) else "".join(p.get("text", p.get("value")) for p in c)
        return [{"role": m["role"], "content": text(m["content"])} for m in record["messages"]]
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    messages = [{"role": roles[m["from"]], "content": m["value"]} for m in record["conversations"]]
    if record.get("tools") not in (None, "", "[]"):
        messages.insert(0, {"role": "system", "content": "Tools:\n" + record["tools"]})
    return messages


def conversations_of(shared):
    if not shared or not os.path.isdir(shared):
        print("shared data is absent: a few written conversations stand in for it")
        system = {"role": "system", "content": "be brief"}
        turns = [{"role": "user", "content": "What is it?\n", "input": "é 漢 🙂"}, {"role": "assistant", "content": "\n\nIt is."},
                 {"role": "user", "content": " and "}, {"role": "assistant", "content": "  that."},
                 {"role": "tool", "content": "{\"a\": 1}"}, {"role": "assistant", "content": ""}]
        return {"written": [([system] if s else []) + turns[:n] for s in (0, 1) for n in (2, 4, 6)]}
    files = {}
    for name in ["alpaca_en_demo.json", "identity.json", "v1_sft_demo.jsonl", "glaive_toolcall_en_demo.json"]:
        with open(os.path.join(shared, name)) as f:
            records = [json.loads(line) for line in f] if name.endswith("l") else json.load(f)
        files[name] = [messages_of(record) for record in records]
    return files


class Checks:
    def __init__(self, tool, shared):
        self.tool = tool
        self.folder = tempfile.TemporaryDirectory()
        self.files = conversations_of(shared)
        self.all = [c for conversations in self.files.values() for c in conversations]
        texts = [m["content"] for c in self.all for m in c] * (1 if len(self.all) > 100 else 50)
        self.run("train", "bpe", "3000", self.write("documents.json", texts), "chatml", self.path("plain"))

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run(self, *arguments):
        return subprocess.run([self.tool, *arguments], check=True)

    def write(self, name, value):
        with open(self.path(name), "w") as f:
            json.dump(value, f)
        return self.path(name)

    def read(self, name):
        with open(self.path(name)) as f:
            return json.load(f)

    def with_template(self, name, jinja):
        """The tokenizer with a template, once in chat_template.jinja and once in tokenizer_config.json."""
        folder = self.path(name)
        self.run("save", self.path("plain"), folder)
        if len(name) % 2:
            with open(os.path.join(folder, "chat_template.jinja"), "w") as f:
                f.write(jinja)
        else:
            config = os.path.join(folder, "tokenizer_config.json")
            with open(config) as f:
                fields = json.load(f)
            fields["chat_template"] = jinja
            with open(config, "w") as f:
                json.dump(fields, f)
        return folder

    # -- 1

    def interpreter(self):
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda x, **more: json.dumps(x, ensure_ascii=False, **more)

        def raise_exception(message):
            raise jinja2.exceptions.TemplateError(message)

        environment.globals["raise_exception"] = raise_exception
        roles = [["user"], ["system", "user"], ["user", "assistant", "user"], ["system", "user", "assistant", "user"],
                 ["user", "assistant", "tool", "tool", "assistant", "user"], ["assistant", "user"], ["user", "user"],
                 ["tool"], []]
        cases = [(snippet, VARIABLES) for snippet in SNIPPETS]
        for template in list(FOREIGN.values()) + list(REFUSED.values()) + [GEMMA]:
            for some in roles:
                messages = [{"role": r, "content": f" text {i}\n<think>hm</think>x" if i % 2 else f"x{i}"} for i, r in enumerate(some)]
                for generation in (False, True):
                    cases.append((template, {"messages": messages, "add_generation_prompt": generation, "bos_token": "<s>",
                                             "eos_token": "</s>"}))
        self.run("jinja", self.write("cases.json", cases), self.path("out.json"))
        rendered = refused = 0
        for (template, variables), ours in zip(cases, self.read("out.json")):
            try:
                theirs = environment.from_string(template).render(**variables)
            except Exception:  # whatever Jinja2 and Python object to
                theirs = None
            if ours is None and theirs is not None:
                refused += 1  # beyond our part of the language: never rendered otherwise
                assert template == "{{ l.append }}", (template, theirs)
                continue
            assert ours == theirs, (template, variables, ours, theirs)
            rendered += ours is not None
        return f"interpreter: {len(cases)} renderings as Jinja2 ({rendered} texts), {refused} refused that Jinja2 renders"

    # -- 2

    def foreign(self, name):
        folder = self.with_template("foreign_" + name, FOREIGN[name])
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        mentions = ["<|im_start|>", "<|im_end|>", "</s>", "<s>"]
        usable, refused = [], 0
        for conversation in self.all:
            messages = [{"role": m["role"], "content": m["content"]} for m in conversation]
            strict = name in ("mistral",) and [m["role"] for m in messages] != ["user", "assistant"] * (len(messages) // 2)
            no_tools = name in ("zephyr", "qwen3") and any(m["role"] == "tool" for m in messages)
            if strict or no_tools or any(s in m["content"] for m in messages for s in mentions):
                refused += 1
                continue
            usable.append(messages)
        self.run("render", folder, "stored", self.write("conversations.json", usable), self.path("out.json"))
        one_stretch = 0
        for messages, (prompt, whole) in zip(usable, self.read("out.json")):
            expected = self.pieces(auto, messages[:-1], True)
            assert prompt == expected, (name, messages, auto.decode(prompt), auto.decode(expected))
            reply = messages[-1]["content"].strip() if name in ("llama3",) else messages[-1]["content"]
            reply = auto(reply, add_special_tokens=False)["input_ids"]
            assert whole[:len(prompt)] == prompt and whole[len(prompt):-1] == reply, (name, messages)
            one_stretch += prompt == auto.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=True,
                                                              return_dict=False)
        return f"{name}: {len(usable)} prompts as apply_chat_template ({one_stretch} in one stretch), {refused} left out"

    def refusals(self):
        for name, jinja in REFUSED.items():
            folder = self.with_template("refused_" + name.replace(" ", "_"), jinja)
            done = subprocess.run([self.tool, "render", folder, "stored", self.write("one.json", [self.all[0]]),
                                   self.path("none.json")], capture_output=True, text=True)
            assert done.returncode == 3 and "--chat_template" in done.stderr, (name, done)
        return f"{len(REFUSED)} unusable templates refused with the remedy"

    # -- 3

    @staticmethod
    def pieces(auto, messages, generation):
        """transformers' ids, each reply encoded apart from what stands before it."""
        text = lambda m, g: auto.apply_chat_template(m, add_generation_prompt=g, tokenize=False)
        whole = text(messages, generation)
        cuts = [0]
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before = text(messages[:i], True)
                assert whole.startswith(before), (whole, before)
                cuts.append(len(before))
        cuts.append(len(whole))
        ids = []
        for begin, end in zip(cuts, cuts[1:]):
            ids += auto(whole[begin:end], add_special_tokens=False)["input_ids"]
        return ids

    def ours(self, template, name):
        folder = self.path("ours_" + name)
        self.run("save", self.path("plain"), folder, template)
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        special = set(auto.all_special_tokens) | {"<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
                                                  "<|eot_id|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>",
                                                  "<|assistant_end|>"}
        lines = []
        for file, conversations in self.files.items():
            given = self.write("conversations.json", conversations)
            self.run("render", folder, template, given, self.path("out.json"))
            # The template that the checkpoint carries comes back as the same.
            self.run("render", folder, "stored", given, self.path("stored.json"))
            assert self.read("out.json") == self.read("stored.json"), (name, file)
            same = mentions = 0
            for messages, (prompt, whole) in zip(conversations, self.read("out.json")):
                while messages and messages[-1]["role"] != "assistant":
                    messages = messages[:-1]  # nothing after the last reply is learned
                if any(s in m["content"] for m in messages for s in special):
                    mentions += 1  # text here, tokens there: tested in text_huggingface_test.py
                    continue
                expected = self.pieces(auto, messages, False)
                assert whole == expected, (name, file, messages, auto.decode(whole), auto.decode(expected))
                same += whole == auto.apply_chat_template(messages, tokenize=True, return_dict=False)
            count = len(conversations) - mentions
            assert count > 0
            lines.append(f"{file} {same} of {count}" + (f" ({mentions} name special tokens)" if mentions else ""))
        return f"{name}: the same ids in one stretch: " + ", ".join(lines) + "; all piece by piece"


def main():
    checks = Checks(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    print(checks.interpreter(), flush=True)
    for name in FOREIGN:
        print(checks.foreign(name), flush=True)
    print(checks.refusals(), flush=True)
    for name in ["chatml", "llama3", "nanochat", "alpaca"]:
        print(checks.ours(name, name), flush=True)
    print(checks.ours(checks.write("mine.json", our_custom_file()), "mine"), flush=True)


if __name__ == "__main__":
    main()
