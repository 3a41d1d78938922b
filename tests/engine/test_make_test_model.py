"""The model that is made from scratch: the same files for the same seed, single-token options, stated sizes."""

import string
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def test_the_folder_is_a_function_of_size_and_seed(make_test_model, tiny_model, tmp_path):
    before = torch.get_rng_state()
    again = make_test_model.make_test_model(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    names = sorted(path.name for path in Path(tiny_model).iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (again / name).read_bytes() == (Path(tiny_model) / name).read_bytes(), name
    other = make_test_model.make_test_model(tmp_path / "other", seed=1)
    assert (other / "model.safetensors").read_bytes() != (again / "model.safetensors").read_bytes()


def test_sizes_are_as_stated(make_test_model):
    for size, millions in (("tiny", 0.92), ("bench", 35.7)):
        with torch.device("meta"):
            model = make_test_model.make_model(make_test_model.SIZES[size], 2, 0, 0)
        assert abs(model.num_parameters() / 1e6 - millions) < 0.1


def test_it_loads_as_any_other_model(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for character in string.ascii_uppercase + string.digits:
        assert len(tokenizer.encode(character, add_special_tokens=False)) == 1
    text = "Amélie (2001) 愛\n<x>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("The Shawshank Redemption (1994)")) < 31 / 1.5
    assert AutoModelForCausalLM.from_pretrained(tiny_model).dtype == torch.bfloat16
