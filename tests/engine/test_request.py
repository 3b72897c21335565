"""OpenAI's fields: what is wrong is refused by name, what is unknown and no matter of sampling does no harm."""

import pytest

from trimtab.backends.engine.request import Sampling, read_chat, read_completion, read_prompts, tools_of
from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.messages import Request


def chat(**fields):
    return read_chat(Request.build("chat", {"model": "m", **fields}), 300)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", 2.1), ("temperature", -0.1), ("temperature", "hot"), ("temperature", True),
        ("top_p", 1.5), ("top_k", 1.5), ("min_p", 2), ("frequency_penalty", 3), ("presence_penalty", -3),
        ("seed", 1.5), ("seed", "x"), ("n", 0), ("n", 33), ("n", "2"), ("max_tokens", -1),
        ("max_completion_tokens", "9"),
        ("stop", 3), ("stop", ["a", 1]), ("stop", ["a"] * 17), ("logprobs", 3), ("top_logprobs", 21),
        ("top_logprobs", 2),
        ("logit_bias", [1]), ("logit_bias", {"x": 1}), ("logit_bias", {"300": 1}), ("logit_bias", {"3": 101}),
        ("tools", "all"), ("functions", {}), ("logit_bias", {"9" * 5000: 1}), ("max_tokens", 2**63),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(param, value):
    with pytest.raises(InvalidRequest) as e:
        chat(**{param: value})
    assert e.value.param == param


def test_values_arrive():
    ask = chat(
        temperature=0,
        top_p=0.5,
        stop="x",
        seed=-4,
        n=3,
        max_tokens=7,
        logprobs=True,
        top_logprobs=2,
        logit_bias={"5": -1},
    )
    assert (ask.sampling.temperature, ask.sampling.top_p, ask.sampling.logprobs) == (0.0, 0.5, 2)
    assert (ask.stops, ask.seed, ask.n, ask.most, ask.sampling.logit_bias) == (("x",), -4, 3, 7, {5: -1.0})


@pytest.mark.parametrize(("name", "value"), [("repetition_penalty", 1.2), ("ignore_eos", True), ("mirostat", 2)])
def test_what_other_engines_sample_by_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest, match=f"'{name}'.*temperature") as refused:
        chat(**{name: value})
    assert refused.value.param == name


def test_what_asks_for_nothing_is_let_through():
    assert (
        chat(repetition_penalty=1.0, ignore_eos=False, min_tokens=0, mirostat=None, chat_template_kwargs={}) == chat()
    )


def test_defaults_nulls_and_unknown_fields():
    ask = chat(temperature=None, stop=None, stop_token_ids=[1], frobnicate={"a": 1}, prediction={"type": "content"})
    assert ask == chat()
    assert (ask.sampling.temperature, ask.most, ask.n, ask.form) == (1.0, None, 1, None)


def test_tools_that_must_not_be_called_are_no_trouble():
    assert chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none") == chat()


def test_json_is_wanted():
    assert chat(response_format={"type": "json_object"}).form is not None
    assert chat(response_format={"type": "text"}).form is None
    for wrong in ("json", {"type": "json_schema", "json_schema": {}}):
        with pytest.raises(InvalidRequest, match="response_format"):
            chat(response_format=wrong)


def test_functions_are_tools():
    function = {"name": "f", "parameters": {}}
    request = Request.build("chat", {"model": "m", "functions": [function]})
    assert tools_of(request) == [{"type": "function", "function": function}]
    assert chat(functions=[function]).tools


def test_each_choice_has_its_own_noise_and_a_seed_always_the_same():
    ask = chat(seed=1)
    assert len({ask.seed_of(i, entropy=0) for i in range(4)}) == 4
    assert ask.seed_of(2, entropy=5) == ask.seed_of(2, entropy=6)
    assert chat().seed_of(0, entropy=5) != chat().seed_of(0, entropy=6)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_in_each_form(prompt, expected):
    assert read_prompts(Request.build("completions", {"prompt": prompt}), 300) == expected


@pytest.mark.parametrize("prompt", [None, 3, [], [300], [-1], [True], ["a", 1], [[]], [[1], "a"], {"a": 1}])
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(InvalidRequest) as e:
        read_prompts(Request.build("completions", {"prompt": prompt}), 300)
    assert e.value.param == "prompt"


@pytest.mark.parametrize(("param", "value"), [("suffix", "x"), ("echo", 1), ("best_of", 3), ("logprobs", True)])
def test_legacy_fields_are_checked(param, value):
    with pytest.raises(InvalidRequest) as e:
        read_completion(Request.build("completions", {"model": "m", "n": 1, param: value}), 300)
    assert e.value.param == param


def test_a_completion_has_16_tokens_where_the_client_says_nothing_and_a_chat_as_many_as_fit():
    assert read_completion(Request.build("completions", {"model": "m", "prompt": "x"}), 300).most == 16
    assert read_completion(Request.build("completions", {"model": "m", "max_tokens": 0}), 300).most == 0
    assert chat().most is None


def test_a_models_advised_sampling_holds_where_the_client_says_nothing() -> None:
    usual = Sampling(temperature=0.2, top_p=0.9)

    def sampling(**fields: object) -> Sampling:
        return read_chat(Request.build("chat", {"model": "m", **fields}), 300, usual).sampling

    assert (sampling().temperature, sampling().top_p) == (0.2, 0.9)
    assert (sampling(temperature=1, top_p=1).temperature, sampling(temperature=1, top_p=1).top_p) == (1, 1)
    assert sampling(temperature=0).temperature == 0
