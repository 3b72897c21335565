"""A model on the bundled engine: its options arrive, and nonsense is named."""

import pytest
from pydantic import TypeAdapter, ValidationError

from trimtab.backends.engine.settings import Settings
from trimtab.gateway.model_config import EngineModel, ModelConfig

READ = TypeAdapter(ModelConfig)


def read(**fields: object) -> EngineModel:
    model = READ.validate_python({"backend": "engine", **fields})
    assert isinstance(model, EngineModel)
    return model


def settings(model: EngineModel) -> Settings:
    options = model.backend_options()
    options.pop("weights")
    return Settings(**options)


def test_what_is_left_out_is_the_engines_default() -> None:
    assert settings(read()) == Settings()


def test_options_arrive() -> None:
    model = read(
        kv_mb=64,
        most_running=4,
        threads=1,
        context_tokens=512,
        speculation={"enabled": False, "most": 7},
        attention={"window": 128, "sinks": 4},
        graphs=False,
    )
    assert settings(model) == Settings(
        context=512, threads=1, kv_mb=64, most_running=4, speculation=False, draft=7, window=128, sinks=4, graphs=False
    )


def test_what_answers_see_of_their_context_arrives() -> None:
    model = read(attention={"window": 256, "sinks": 4, "global_tokens": ["<|im_start|>"]})
    assert settings(model) == Settings(window=256, sinks=4, marks=("<|im_start|>",))
    assert settings(read(attention={"best_pages": 16})) == Settings(best_pages=16)
    assert settings(read(kv="fp8")) == Settings(kv="fp8")
    assert settings(read(speculation={"window": 512})) == Settings(draft_window=512)
    assert settings(read(speculation={"model": "small.gguf"})) == Settings(draft_weights="small.gguf")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kv_mb": 1}, "kv_mb"),
        ({"kv_mb": "lots"}, "kv_mb"),
        ({"compute": "int3"}, "compute"),
        ({"threads": 0}, "threads"),
        ({"speculation": {"most": 0}}, "most"),
        ({"speculation": {"mots": 3}}, "mots"),
        ({"attention": {"sinks": 4}}, "without a window"),
        ({"attention": {"window": 3}}, "window"),
        ({"attention": {"global_tokens": ["a"]}}, "without a window"),
        ({"attention": {"global_tokens": "a"}}, "global_tokens"),
        ({"attention": {"window": 64, "best_pages": 4}}, "exclude"),
        ({"attention": {"best_pages": 1}}, "best_pages"),
        ({"kv": "fp4"}, "kv"),
        ({"speculation": {"window": 3}}, "window"),
        ({"speculation": {"window": 64}, "attention": {"window": 512}}, "no use"),
        ({"kv": "fp8", "attention": {"best_pages": 4}}, "exclude"),
        ({"most_running": 300}, "step_tokens must be more"),
        ({"most_running": 16, "step_tokens": 16}, "step_tokens must be more"),
    ],
)
def test_nonsense_is_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read(**fields)


def test_how_fast_it_runs_is_not_who_answers() -> None:
    assert read(kv_mb=64, threads=1, graphs=False, speculation={"enabled": False}).epoch == read().epoch
    assert read(attention={"window": 128}).epoch != read().epoch
    assert read(compute="int4").epoch != read().epoch
    assert read(kv="fp8").epoch != read().epoch


def test_answers_name_the_model_and_not_where_its_file_lies() -> None:
    assert read(weights="/srv/models/Qwen 2.5.Q4_K_M.gguf").upstream_name("q") == "Qwen-2.5.Q4_K_M"
    assert read().upstream_name("small") == "smollm2-135m-instruct"
