"""`shape:MODEL`: a published architecture, made here, that vLLM loads, and that says of itself that it knows nothing."""
import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers

from lib import bench, launch, limits, model_shape, pixels, plans, report, runner, server as servers, workloads
from lib.errors import UserError

NAME = "Qwen3-VL-2B-Instruct"
PLACES = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|vision_start|>": 151652, "<|vision_end|>": 151653,
          "<|image_pad|>": 151655, "<|video_pad|>": 151656, "</think>": 151668}  # as published


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_shape.make(NAME, tmp_path_factory.mktemp("shape") / NAME)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("name", model_shape.published())
def test_a_shape_has_the_published_dimensions_and_number_of_parameters(name, tmp_path):
    published = model_shape.published()[name]
    made = json.loads((model_shape.make(name, tmp_path / name) / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        assert made[part] | published["config"][part] == made[part], part
    assert limits.read(made).parameters == published["parameters"], "the count that the hub shows"


def test_every_id_that_random_weights_can_draw_decodes_to_text(folder, tokenizer):
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    texts = tokenizer.decode_batch([[n] for n in range(rows)], skip_special_tokens=False)
    assert len(texts) == rows and all(texts)
    assert sum("\ufffd" in text for text in texts) < 400, "parts of characters, as any byte-level vocabulary has"


def test_special_tokens_lie_where_the_published_ones_do(tokenizer):
    assert {token: tokenizer.token_to_id(token) for token in PLACES} == PLACES
    assert tokenizer.encode("<|im_start|>user").ids[0] == PLACES["<|im_start|>"]


def test_an_answer_that_is_read_again_keeps_its_length(tokenizer):
    drawn = list(range(2000, 151000, 311))
    assert tokenizer.encode(tokenizer.decode(drawn)).ids == drawn, "a conversation's context would grow by letters"


def test_prompts_are_not_cut_into_letters(tokenizer):
    text = workloads.explain_ai(1, 1, 0.0, 1)[0].messages[0]["content"]
    assert len(tokenizer.encode(text).ids) < len(text) / 3


LOADS = """
import sys
from PIL import Image
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
folder = sys.argv[1]
config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
assert type(config).__name__ == "Qwen3VLConfig", type(config)
assert config.text_config.rope_parameters["mrope_section"] == [24, 20, 20], config.text_config.rope_parameters
assert (config.image_token_id, tokenizer.eos_token_id) == (tokenizer.convert_tokens_to_ids("<|image_pad|>"), 151645)
processor = AutoProcessor.from_pretrained(folder)
prompt = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
                                       add_generation_prompt=True)
read = processor(text=[prompt], images=[Image.new("RGB", (1024, 768))])
print(sum(token == config.image_token_id for token in read["input_ids"][0]))
"""


@pytest.mark.usefixtures("coming")
def test_transformers_loads_it_without_a_network_and_sees_pictures_as_predicted(folder):
    env = launch._environment(str(folder), "") | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", LOADS, folder], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == pixels.tokens(1024, 768, pixels.Processor())


def test_an_unknown_shape_is_told_in_one_line_that_names_the_known_ones():
    with pytest.raises(UserError) as error:
        launch.open_server("shape:Qwen3-VL-2B")
    said = str(error.value)
    assert "\n" not in said and all(f"shape:{name}" in said for name in model_shape.published())
    assert said.endswith(f"did you mean shape:{NAME}?")


# -- for real: vLLM serves it, cut to a size that a CPU carries -----------------------------------------
CUT = json.dumps({
    "text_config": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    "vision_config": {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128,
                      "deepstack_visual_indexes": [1]}})


@pytest.fixture(scope="module")
def coming(tmp_path_factory):
    """The server starts beside the test of transformers: either is one import after the other."""
    flags = ["--hf-overrides", CUT, *launch.added_flags("embedded")]
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(launch.open_server, f"shape:{NAME}", flags, tmp_path_factory.mktemp("shape-server"))
        yield coming
        with coming.result():
            pass


@pytest.fixture(scope="module")
def served(coming):
    return coming.result()


def test_whoever_meets_the_server_is_told_that_its_weights_are_random(served, monkeypatch):
    monkeypatch.setenv("WORKBOOK_API_KEY", served.api_key)
    for server in (served, servers.connect(served.url)):  # one that knows the flags, one that does not
        assert server.untrained and server.model == f"shape:{NAME}"
        about = bench.describe(server)
        assert "random weights" in about["note"] and "random weights" in about["facts"]["model"]


def test_a_trained_server_is_not_called_untrained(server):
    assert not server.untrained and "random" not in bench.note(server)


def test_no_token_of_an_answer_is_lost(served):
    async def answers():
        async with served.client() as client:
            return [await client.chat(request) for request in workloads.explain_ai(4, 50, 0.7, 1)]

    for record in asyncio.run(answers()):
        assert (record.error, record.output_tokens) == (None, 50)
        assert len(record.text.split()) > 40, "a made-up word for nearly every token"


def test_health_check_and_pictures_are_measured_and_nothing_is_judged(served, monkeypatch, run_name):
    monkeypatch.setenv("WORKBOOK_API_KEY", served.api_key)
    few = {"rush_streams": 8, "picture_requests": 4, "picture_answer": 8, "picture_sizes": ["128x128", "320x320", "512x512"], "size_repeats": 2,
           "picture_most": 1, "picture_rounds": 2, "picture_streams": [1], "ocr_pictures": 4, "ocr_streams": 2}
    folder, well = runner.run(plans.make("smoke", served.url, ["01", "05"], few, name=run_name))
    assert well, folder.info()["notebooks"]
    for page in ("html/01_health_check.html", "html/05_multimodal.html", "report.html"):
        said = report.as_text(folder.path / page)
        assert "random weights" in said, page
        assert page == "report.html" or said.count("Not judged") >= 2, "each place says so where the answers would stand"
    assert not [figure["name"] for figure in folder.figures().values() if "right answers" in figure["name"]]
    assert not (folder.path / "requests" / "probes.jsonl").exists(), "no question was sent"
