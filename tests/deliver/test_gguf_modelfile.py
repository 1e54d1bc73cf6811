from zephyr.data.tokenize.templates import LAYOUTS, jinja_of
from zephyr.deliver.gguf.export import go_template, modelfile
from zephyr.recipe.model_section import ChatTemplateSection

ZEPHYR = jinja_of(ChatTemplateSection(name="zephyr"))


def test_a_modelfile_says_template_stops_and_sampling():
    text = modelfile(
        "mine-q8_0.gguf",
        template=ZEPHYR,
        eos="</s>",
        stops=["<|stop|>", "</s>"],
        parameters={"temperature": 0.7, "top_k": 50.0, "num_ctx": 512.0},
        starts_with="<s>",
    )
    assert text == (
        "# ollama create NAME -f mine-q8_0.Modelfile\n"
        "FROM ./mine-q8_0.gguf\n"
        'TEMPLATE """<s>{{ range .Messages }}<|{{ .Role }}|>\n'
        "{{ .Content }}</s>\n"
        '{{ end }}<|assistant|>\n"""\n'
        'PARAMETER stop "<|stop|>"\n'
        'PARAMETER stop "</s>"\n'
        "PARAMETER temperature 0.7\n"
        "PARAMETER top_k 50\n"
        "PARAMETER num_ctx 512\n"
    )


def test_templates_of_ours_are_known_with_and_without_bos():
    for bos in (False, True):
        written = go_template(jinja_of(ChatTemplateSection(name="chatml", bos=bos)), "</s>")
        message = "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
        assert written == "{{ range .Messages }}" + message + "{{ end }}<|im_start|>assistant\n"
    empty = go_template(jinja_of(ChatTemplateSection(name="zephyr", empty_system=True)), "</s>")
    assert str(empty).startswith('{{ if ne (index .Messages 0).Role "system" }}<|system|>\n</s>\n{{ end }}{{ range')


def test_what_go_cannot_say_is_left_to_ollama():
    assert LAYOUTS["llama3"].strips
    assert go_template(jinja_of(ChatTemplateSection(name="llama3")), "</s>") is None
    text = modelfile("a.gguf", template="{{ messages }}", eos="</s>", stops=[], parameters={})
    assert "\nTEMPLATE" not in text
    assert "# TEMPLATE: the one in the file" in text
