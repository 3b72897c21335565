"""Every provider that litellm knows, behind the same two verbs; the only file that imports litellm.

litellm is imported when the first call comes, off the event loop (it takes seconds and about 200 MB). It only
translates: retries, caching, callbacks, parameter dropping, guesses at usage and look-ups on the network are off.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import logging
import os
import re
import threading
from typing import Any

from ..protocol.errors import UpstreamUnreachable
from ..protocol.messages import Answer
from . import litellm_wire as wire
from .base import Call
from .litellm_errors import translate
from .litellm_stream import LiteLLMStream, dump, passed_headers
from .registry import MissingExtra, Unusable

# 1.82.7 and 1.82.8 carried a credential stealer (2026-03); before 1.83.7 a pre-auth SQL injection, CVE-2026-42208.
_COMPROMISED = {(1, 82, 7), (1, 82, 8)}
_SAFE_FROM: tuple[int, ...] = (1, 83, 7)
_VERB = {"chat": "acompletion", "completions": "atext_completion", "embeddings": "aembedding"}
_SECRET_OPTION = re.compile(r"key|secret|token|password|credential|private", re.IGNORECASE)


class UnsafeLitellm(Unusable):
    """The installed litellm is a version that must not be imported."""


def check_version(version: str) -> None:
    """Raises UnsafeLitellm for a compromised or vulnerable version, and for one that cannot be read."""
    matched = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    parts: tuple[int, ...] = tuple(map(int, matched.groups())) if matched else (0,)
    if parts in _COMPROMISED:
        raise UnsafeLitellm(
            f"litellm {version} carried a credential stealer: uninstall it, take every secret of this machine "
            "for known, then pip install 'trimtab[litellm]'"
        )
    if parts < _SAFE_FROM:
        raise UnsafeLitellm(f"litellm {version} has known holes (CVE-2026-42208): pip install -U 'trimtab[litellm]'")


class LiteLLMBackend:
    """`model` is litellm's spelling ("anthropic/claude-sonnet-4-5"); `options` are more of litellm's arguments
    (region, project, credentials), set by the operator and never by a request.

    Raises MissingExtra or UnsafeLitellm at once, from the package's metadata, without importing it.
    """

    def __init__(self, model: str, api_key: str | None = None, api_base: str | None = None, **options: Any) -> None:
        try:
            check_version(importlib.metadata.version("litellm"))
        except importlib.metadata.PackageNotFoundError:
            raise MissingExtra("litellm is not installed: pip install 'trimtab[litellm]'") from None
        self._fixed: dict[str, Any] = {
            "drop_params": False,
            **options,
            "model": model,
            "num_retries": 0,
            "max_retries": 0,
            "caching": False,
            "no-log": True,
        }
        if api_key is not None:
            self._fixed["api_key"] = api_key
        if api_base is not None:
            self._fixed["api_base"] = api_base
        hidden = (value for name, value in self._fixed.items() if _SECRET_OPTION.search(name))
        self._secrets = [text for text in (*hidden, api_base) if isinstance(text, str) and len(text) >= 6]
        self._library: _Library | None = None
        self._compatible = False
        self._open = False

    async def start(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        library, self._library = self._library, None
        if library is not None:
            await library.leave()

    def ready(self) -> bool:
        return self._open

    async def complete(self, call: Call) -> Answer:
        answer = await self._call(call)
        fields = dump(answer)
        if call.kind == "embeddings" and call.request.get("encoding_format") == "base64":
            wire.pack_vectors(fields)
        body, usage, finishes = wire.whole(fields, call.kind)
        return Answer(body, usage, headers=passed_headers(answer), finish_reasons=finishes)

    async def stream(self, call: Call) -> LiteLLMStream:
        """An open stream. Some of litellm's providers connect at the first read only, so that is waited for."""
        stream = LiteLLMStream(await self._call(call), call.kind, self._secrets, call.timeouts.total)
        await stream.open()
        return stream

    async def _call(self, call: Call) -> Any:
        library = await self._loaded()
        fields = wire.arguments(call.request, compatible=self._compatible)
        headers = {**self._fixed.get("extra_headers", {}), **call.headers}
        fixed = {**self._fixed, "timeout": call.timeouts.total, **({"extra_headers": headers} if headers else {})}
        if call.kind == "embeddings":
            # litellm has one argument set for text; these two it takes for a provider's parameters.
            fixed.pop("drop_params")
        try:
            return await getattr(library.module, _VERB[call.kind])(**fields, **fixed)
        except Exception as e:
            raise translate(e, self._secrets, call.timeouts.total) from None

    async def _loaded(self) -> _Library:
        if not self._open:
            raise UpstreamUnreachable("the backend is not started")
        if self._library is None:
            library = await asyncio.to_thread(_Library.get)
            if self._library is None:
                self._library = library
                library.join()
                self._compatible = library.compatible(self._fixed["model"], self._fixed.get("api_base"))
        return self._library


class _Library:
    """The imported litellm, set up once a process. Backends share its connections; the last to leave closes them."""

    _one: _Library | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        # Nothing is fetched from the network, and no .env file is read into our environment.
        for name in ("MODEL_COST_MAP", "ANTHROPIC_BETA_HEADERS", "BLOG_POSTS"):
            os.environ[f"LITELLM_LOCAL_{name}"] = "True"
        os.environ["LITELLM_MODE"] = "PRODUCTION"
        litellm = importlib.import_module("litellm")
        # Its loggers write requests and their headers at will; what went wrong is ours to say.
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        settings: dict[str, Any] = {
            "telemetry": False,
            "suppress_debug_info": True,
            "drop_params": False,
            "modify_params": False,
            "cache": None,
            "user_url_validation": True,  # pictures by URL are fetched from here: never from a private address
            "disable_token_counter": True,  # or a guess at usage passes for the provider's own
            "disable_streaming_logging": True,
            "turn_off_message_logging": True,
        }
        for name in ("callbacks", "success_callback", "failure_callback", "input_callback", "service_callback"):
            settings[name] = []
        for name, value in settings.items():
            setattr(litellm, name, value)
        self.module: Any = litellm
        self.users = 0

    @classmethod
    def get(cls) -> _Library:
        with cls._lock:
            if cls._one is None:
                cls._one = cls()
            return cls._one

    def compatible(self, model: str, api_base: str | None) -> bool:
        """Whether the provider speaks OpenAI's API, so that unknown fields may travel."""
        try:
            provider = str(self.module.get_llm_provider(model, api_base=api_base)[1])
        except Exception as e:
            raise translate(e, [], 0) from None
        return provider in {"openai", "azure", "custom_openai", "text-completion-openai"} or provider in set(
            self.module.openai_compatible_providers
        )

    def join(self) -> None:
        """One backend more."""
        self.users += 1
        if self.users == 1:
            # Where none is set, a legacy completion opens a connection pool of its own each time and leaves it open.
            common = importlib.import_module("litellm.llms.openai.common_utils")
            self.module.aclient_session = common.BaseOpenAILLM.get_async_http_client()

    async def leave(self) -> None:
        """One backend less; after the last, litellm's connections and its background task are closed."""
        self.users -= 1
        if self.users:
            return
        # Tasks of its own that it started after an answer would wake its logging worker again.
        if left := [task for task in asyncio.all_tasks() if self._owns(task)]:
            await asyncio.wait(left, timeout=1)
        logging_worker = importlib.import_module("litellm.litellm_core_utils.logging_worker")
        await logging_worker.GLOBAL_LOGGING_WORKER.stop()
        session, self.module.aclient_session = self.module.aclient_session, None
        await self.module.close_litellm_async_clients()
        await session.aclose()
        self.module.in_memory_llm_clients_cache.flush_cache()

    def _owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether litellm started this task, its endless logging worker left out."""
        code = getattr(task.get_coro(), "cr_code", None)
        return (
            code is not None
            and code.co_filename.startswith(os.path.dirname(self.module.__file__))
            and code.co_name != "_worker_loop"
        )
