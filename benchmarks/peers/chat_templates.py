"""Renders small templates, written with the constructs of well-known models' chat templates, by transformers, and writes
what it renders to the test resources: python benchmarks/peers/chat_templates.py > peft/src/test/resources/fixtures/chat/rendered.json"""
import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template

USER = {"role": "user", "content": "  What is 2 + 2?\n"}
ANSWER = {"role": "assistant", "content": "Four, \"4\" — é ✓."}
PLAIN = [USER, ANSWER]
LONG = [{"role": "system", "content": "Be <brief>."}, USER, ANSWER, {"role": "user", "content": "And 'three' & more?"},
        {"role": "assistant", "content": "Six\n\nand </think> a tail"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds \"numbers\" — é", "parameters": {
    "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer", "enum": [1, 2.5, None, True]}},
    "required": ["a"]}}}]
CALLS = [{"role": "user", "content": "Add 1 and 2"},
         {"role": "assistant", "content": "", "tool_calls": [
             {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2e-7, "c": []}}}]},
         {"role": "tool", "content": "3", "tool_call_id": "c1"}, {"role": "tool", "content": "{\"x\": 3}"},
         {"role": "assistant", "content": "It is 3."}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Look "}, {"type": "image"}, {"type": "text", "text": "here"}]}]
THINKING = [USER, {"role": "assistant", "content": "<think>\nhm, 4\n</think>\n\nFour."}, {"role": "user", "content": "Sure?"},
            {"role": "assistant", "reasoning_content": "yes", "content": "Yes."}]

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Date length: " ~ (date_string | length) ~ "\\n\\n" }}
{%- if tools is not none and not (messages | length == 0) %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
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
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {{- ', "id": "' + tool_call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""
PHI3 = """{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""
SMOLLM = """{# defaults #}
{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- macro header(role, end="") -%}
{{ "<|im_start|>" ~ role ~ "\\n" ~ end }}
{%- endmacro -%}
{%- if messages[0].role == "system" -%}
  {%- set parts = messages[0].content.split("/no_think") -%}
  {{- header("system") ~ parts | join("") | trim ~ "<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == "system" -%}{%- continue -%}{%- endif -%}
  {%- if message.role == "assistant" -%}
  {{- header("assistant") }}{% generation %}{{ message.content.lstrip("\\n") }}<|im_end|>{% endgeneration %}{{ "\\n" }}
  {%- elif message.role == "user" -%}
  {{- header(role="user") + message.content ~ "<|im_end|>\\n" -}}
  {%- else -%}
  {%- break -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ header("assistant", "" if enable_thinking else "<think>\\n\\n</think>\\n") }}{%- endif -%}"""
MIXED = """{% set x = [1, 2.0, 1e20, 1.5e-7, none, true, 'it''s', "q\\"'", {'k': (1,)}] %}
{{ x }} {{ x | tojson }} {{ {'é': [], 'z': {}, 'a': [{'b': 1}]} | tojson(indent=2) }}
   {% if x is sequence %}
  yes {%+ if true %} kept{% endif %}

   {% endif %}
{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ (1 + 2) ~ 'a' * 3 }} {{ 1 < 2 < 3 }} {{ not 1 == 2 }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.rsplit(' ', 1) }} {{ 'abc'[::-1] }} {{ 'abcdef'[1:-1:2] }} {{ 'héllo wörld'.title() }}
{{ [3, 1, 2] | sort | join('-') }} {{ ['b', 'A'] | sort }} {{ [1, 2, 3] | map('string') | list }} {{ messages | map(attribute='role') | unique | list }}
{{ messages | rejectattr('role', 'eq', 'user') | list | length }} {{ 'x' | default('y') }} {{ nothing | default('y') }} {{ '' | default('z', true) }}
{% set ns = namespace(a=1) %}{% for i in range(5) if i is odd %}{% set ns.a = ns.a + i %}{{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}{% else %}none{% endfor %} {{ ns.a }}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {{ {'b': 1, 'a': 2} | dictsort }} {{ {'a': 1}.get('b', 'no') }} {{ {'a': 1} | items | list }}
{% set block %}in {{ 1 }}{% endset %}[{{ block | upper }}] {% raw %}{{ raw }}{% endraw %} {{ "%s is %d, %.2f" | format('a', 3, 2.5) }} {{ '%05d' % 42 }}
{%- macro outer(a, b='d') %}<{{ a }}{{ b }}{{ caller() if caller is defined }}>{% endmacro %}
{{ outer(1) }}{{ outer(b=2, a='q') }}{% call outer('c') %}called{% endcall %}{% filter upper %}filtered{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %} {{ (1, 2)[0] }} {{ 'ab' in 'cabd' }} {{ 'z' not in ['a'] }} {{ x[4] is none }} {{ undefined_name is defined }} {{ 'A' is upper }}
{{ 'a\\nb\\n\\nc' | indent(2) }}|{{ 'a\\r\\nb'.splitlines() }}|{{ 3.7 | int }} {{ '12' | int + 1 }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 10 | float }}|{{ 'x=1'.partition('=') }}
{{ messages[0].content | trim | replace('2', 'two') }} {{ 'a' 'b' }} {{ 'tEsT'.capitalize() }} {{ 'aXbX'.replace('X', '-', 1) }} {{ messages[-1]['role'] }} {{ 'é' | length }} {{ '😀!'[0] }}
{{ [1,2] + [3] }} {{ x.0 }} {{ none }} {{ true and 'yes' or 'no' }} {{ [] or 'empty' }} {{ '' is string }} {{ 1 is number }} {{ {} is mapping }} {{ nothing is iterable }} {{ '<&>' | escape }}"""
BAD = """{{ bos_token }}{% if messages[0]['role'] != 'system' %}{{ raise_exception('System first!') }}{% endif %}ok"""

CASES = [("chatml", CHATML, LONG, None), ("llama3", LLAMA3, LONG, None), ("llama3 tools", LLAMA3, CALLS, TOOLS),
         ("qwen3", QWEN3, LONG, None), ("qwen3 tools", QWEN3, CALLS, TOOLS), ("qwen3 thinking", QWEN3, THINKING, None),
         ("gemma", GEMMA, LONG, None), ("gemma parts", GEMMA, PARTS, None), ("gemma refuses", GEMMA, CALLS, None),
         ("mistral", MISTRAL, PLAIN, None), ("mistral system", MISTRAL, LONG, None), ("mistral tools", MISTRAL, CALLS, TOOLS),
         ("phi3", PHI3, LONG, None), ("smollm", SMOLLM, LONG, None), ("mixed", MIXED, LONG, None), ("refuses", BAD, PLAIN, None)]


def rendered(name, template, messages, tools, prompt):
    case = {"name": name + (" prompt" if prompt else ""), "template": template, "messages": messages, "prompt": prompt}
    if tools:
        case["tools"] = tools
    try:
        texts, spans = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
                                             return_assistant_tokens_mask=True, bos_token="<s>", eos_token="</s>")
        case["text"] = texts[0]
        case["generated"] = spans[0]
    except Exception as e:
        case["error"] = str(e)
    return case


json.dump([rendered(*c, p) for c in CASES for p in (False, True)], sys.stdout, ensure_ascii=False, indent=1)
print()
