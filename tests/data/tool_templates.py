"""Chat templates that know tools and reasoning, in the shape of four families of models, in words of our own.

QWEN: tools in the system message, calls in tags, reasoning kept since the last question and stripped before it.
LLAMA: tools in the first question, the call as bare JSON, a tool's answer quoted as JSON.
MISTRAL: tools before the last question, call ids of nine characters.
SMOLLM: reasoning in the text, shown as it is.
R1: the generation prompt opens the reasoning, which no rendered answer has.
"""

from transformers import PreTrainedTokenizerFast

from tests.data.dialogues import chat_tokenizer
from zephyr.data.tokenize.encoding import DialogueEncoder
from zephyr.recipe.model_section import ChatTemplateSection

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- 'Tools at hand:' }}
    {%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
    {{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if ns.looking and message.role == 'user' %}
        {%- set ns.looking = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or content %}{{- '\n' }}{%- endif %}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

LLAMA = """{{- bos_token }}
{%- set said = messages %}
{%- if said[0]['role'] == 'system' %}
    {%- set system = said[0]['content'] | trim %}{%- set said = said[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' + system + '<|eot_id|>' }}
{%- if tools %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\nCall one of these functions if it helps.\n\n' }}
    {%- for tool in tools %}{{- (tool | tojson(indent=4)) + '\n\n' }}{%- endfor %}
    {{- said[0]['content'] | trim + '<|eot_id|>' }}
    {%- set said = said[1:] %}
{%- endif %}
{%- for message in said %}
    {%- if message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' + (message.content | trim) }}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

MISTRAL = """{{- bos_token }}
{%- set questions = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if tools and message == questions[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('ids of calls have nine characters') }}
            {%- endif %}
            {%- set body = call.function | tojson %}
            {{- body[:-1] + ', "id": "' + call.id + '"}' }}
            {%- if not loop.last %}{{- ', ' }}{%- endif %}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}
            {{- raise_exception('ids of calls have nine characters') }}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' }}
        {{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('no ' + message['role'] + ' here') }}
    {%- endif %}
{%- endfor %}"""

SMOLLM = """{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n' }}{%- endif %}
{%- if tools %}
    {{- '<tools>\n' }}
    {%- for tool in tools %}{{- (tool | string) + '\n' }}{%- endfor %}
    {{- '</tools>\n' }}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- generation %}
        {{- '<|im_start|>assistant\n' + content.lstrip('\n') }}
        {%- for call in message.tool_calls or [] %}
            {%- set body = {'name': call.function.name, 'arguments': call.function.arguments} %}
            {{- '\n<tool_call>' + (body | tojson) + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

R1 = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '<|user|>' + message.content }}
    {%- elif message.role == 'assistant' %}{{- '<|assistant|>' + message.content.split('</think>')[-1] + eos_token }}
    {%- else %}{{- message.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|><think>\n' }}{%- endif %}"""

TEMPLATES = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "smollm": SMOLLM}
_MISTRALS = [f"[{close}{name}]" for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for close in ("", "/")]


def tool_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with this template and the control tokens of all of them."""
    tokenizer = chat_tokenizer()
    known = list(tokenizer.all_special_tokens)
    tokenizer.add_special_tokens({"extra_special_tokens": [*known, *_MISTRALS, "[TOOL_CALLS]"]})
    tokenizer.chat_template = template
    return tokenizer


def tool_encoder(template: str, reasoning: str = "learn") -> DialogueEncoder:
    return DialogueEncoder(tool_tokenizer(template), ChatTemplateSection(name="own", reasoning=reasoning))
