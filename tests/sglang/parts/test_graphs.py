"""The graph runner against the SGLang it derives from, and whole servers whose graphs are simulated on a CPU."""

from __future__ import annotations

import inspect
import json
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.sglang.graphs.choice import GraphKind
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.engines.sglang.launch import Server

pytestmark = pytest.mark.engine

PARENT_PARAMETERS = {
    "can_run_graph": ["self", "forward_batch"],
    "execute": ["self", "forward_batch", "pp_proxy_tensors"],
    "load_batch": ["self", "forward_batch", "pp_proxy_tensors"],
    "capture": ["self"],
    "capture_one_shape": ["self", "size", "forward", "stream_idx", "variant_label", "attention_variant"],
    "get_spec_info": ["self", "num_tokens"],
    "_resolve_lora_variant": ["self", "forward_batch"],
    "_glue_key": ["self", "bs", "actual_mode", "attention_variant"],
    "_set_profile_trace_tag": ["self", "bs", "stream_idx", "variant_label", "attention_variant"],
}
OWN = {"__init__", "kind_of", "_kind_to_replay", "_use_metadata"}


def runners() -> tuple[type, type, type]:
    from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner

    from nemotron_diffusion_plugin.sglang.graphs.runner import BlockGraphRunner, DecodeStepGraphRunner

    return DecodeCudaGraphRunner, BlockGraphRunner, DecodeStepGraphRunner


def test_what_is_overridden_exists() -> None:
    parent, *own = runners()
    for name, expected in PARENT_PARAMETERS.items():
        assert list(inspect.signature(getattr(parent, name)).parameters) == expected, name
    for runner in own:
        methods = {name for name, value in vars(runner).items() if inspect.isfunction(value)}
        assert methods <= PARENT_PARAMETERS.keys() | OWN, methods
        for name in methods & PARENT_PARAMETERS.keys():
            assert list(inspect.signature(getattr(runner, name)).parameters) == PARENT_PARAMETERS[name], name


def test_what_is_relied_on() -> None:
    """The order of the parent's constructor, the key of a graph, and what the scheduler waits for."""
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.model_executor.model_runner import ModelRunner

    parent, *_ = runners()
    source = inspect.getsource(parent.__init__)
    steps = [
        "self.capture_forward_mode = ForwardMode.TARGET_VERIFY",
        "get_batch_sizes_to_capture(",
        "self.attn_backend.init_cuda_graph_state(self.max_bs, self.max_num_token)",
        "self.capture()",
    ]
    places = [source.index(step) for step in steps]
    assert places == sorted(places)
    assert "self._resolve_lora_variant(forward_batch)" in inspect.getsource(parent.load_batch)
    assert "runner.shared_read_done_event = None" in inspect.getsource(Scheduler._apply_war_barrier)
    assert hasattr(ModelRunner, "_get_attention_backend")
    assert "self.init_new_workspace" in inspect.getsource(ModelRunner)


@pytest.mark.parametrize(
    ("module", "backend", "names"),
    [
        ("triton_backend", "TritonAttnBackend", {"kv_indices_buf"}),
        ("flashinfer_backend", "FlashInferAttnBackend", {"kv_indices_buf"}),
    ],
)
def test_backends_take_a_buffer_for_their_indices(module: str, backend: str, names: set[str]) -> None:
    import sglang.srt.layers.attention as attention

    source = (Path(attention.__path__[0]) / f"{module}.py").read_text(encoding="utf-8")
    body = source[source.index(f"class {backend}(") :]
    signature = body[body.index("def init_cuda_graph_state(") :].split("):")[0]
    assert all(name in signature for name in names)


@pytest.mark.parametrize(
    ("vocab_size", "block", "requests", "rows"),
    [
        (131072, 32, 256, 64 * 32),  # blocks of one forward
        (131072, 32, 4096, 4096),  # decode steps of many requests
        (131072, 32, 8, 8 * 32),  # fewer requests than a forward takes blocks
        (1 << 28, 32, 16, 32),  # one block at least
    ],
)
def test_the_buffer_of_logits_has_the_rows_of_the_largest_graph(
    vocab_size: int, block: int, requests: int, rows: int
) -> None:
    from nemotron_diffusion_plugin.sglang.graphs.runner import logits_rows

    config = SimpleNamespace(vocab_size=vocab_size)
    runner = SimpleNamespace(model_config=config, decode_num_tokens_per_req=lambda: block)
    assert logits_rows(runner, requests * block) == rows


def stand_in(kinds: tuple[GraphKind, ...] = (GraphKind.VERIFY, GraphKind.DRAFT, GraphKind.DRAFT_LORA)) -> Any:
    """A runner of blocks of 4 that was never constructed, with what the methods under test read."""
    runner = object.__new__(runners()[1])
    runner.kinds, runner.captured_req_width = kinds, 4
    runner._capturing = runner._replaying = runner._early_verify_metadata = None
    runner.lora_rows = torch.full((8, 1), 9.0)
    runner.buffers = SimpleNamespace(positions=torch.arange(8))
    runner.attn_backend = SimpleNamespace(target_verify_metadata=None)
    runner._metadata = {kind: {"target_verify_metadata": {"of": kind}} for kind in kinds}
    runner.model_runner = SimpleNamespace(shared_read_done_event="an earlier replay")
    runner.decode = SimpleNamespace(can_run_graph=lambda batch: True, execute=lambda batch, proxy: "decoded")
    return runner


def forward(
    bidirectional: bool | None, rows: torch.Tensor | None = None, width: int = 4, size: int = 2
) -> Any:
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    from nemotron_diffusion_plugin.sglang.spec_inputs import BlockPass

    tokens = torch.zeros(size if bidirectional is None else size * width, dtype=torch.int64)
    info = None if bidirectional is None else BlockPass(tokens, width, bidirectional, lora_rows=rows)
    mode = ForwardMode.DECODE if bidirectional is None else ForwardMode.TARGET_VERIFY
    return SimpleNamespace(forward_mode=mode, spec_info=info, batch_size=size, input_ids=tokens)


@pytest.fixture
def parent_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the parent's methods; what they were called with."""
    calls: list[tuple[Any, ...]] = []
    parent = runners()[0]
    for name, answer in (("can_run_graph", True), ("execute", "replayed"), ("load_batch", None)):
        monkeypatch.setattr(
            parent, name, lambda self, *given, a=answer, n=name: (calls.append((n, *given)), a)[1]
        )
    return calls


ROWS = torch.tensor([[1.0], [0.0], [1.0], [1.0]])


def test_dispatch(parent_calls: list[tuple[Any, ...]]) -> None:
    runner, keys = stand_in(), set()
    runner.capture_forward_mode = "TARGET_VERIFY"
    assert runner.can_run_graph(forward(None))
    assert runner.execute(forward(None)) == "decoded"
    assert not parent_calls
    for batch, kind in (
        (forward(False), "verify"),
        (forward(True), "draft"),
        (forward(True, ROWS, size=1), "draft_lora"),
    ):
        assert runner.can_run_graph(batch)
        assert runner._resolve_lora_variant(batch) == kind
        runner.load_batch(batch)
        assert runner.attn_backend.target_verify_metadata == {"of": GraphKind(kind)}
        keys.add(runner._glue_key(2, "TARGET_VERIFY", None))
        assert runner.execute(batch) == "replayed"
    assert len(keys) == 3
    assert runner.model_runner.shared_read_done_event == "an earlier replay"
    assert runner.lora_rows[:, 0].tolist() == [1, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("width", [1, 3])
def test_narrow_blocks_run_without_a_graph(width: int, parent_calls: list[tuple[Any, ...]]) -> None:
    runner = stand_in()
    assert not runner.can_run_graph(forward(True, width=width))
    assert runner.model_runner.shared_read_done_event is None  # the scheduler waits for the whole step
    assert not parent_calls
    with pytest.raises(RuntimeError, match="no graph"):
        runner.load_batch(forward(True, width=width))


def test_a_draft_with_the_adapter_never_replays_without_it(parent_calls: list[tuple[Any, ...]]) -> None:
    runner = stand_in((GraphKind.VERIFY, GraphKind.DRAFT))
    batch = forward(True, ROWS, size=1)
    assert not runner.can_run_graph(batch)
    with pytest.raises(RuntimeError, match="no graph"):
        runner.load_batch(batch)
    assert not parent_calls


def test_every_kind_is_captured_under_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, parent = stand_in(), runners()[0]
    captured = []

    def capture(self: Any, size: int, forward: Any, stream: Any, label: str, attention: Any) -> None:
        info = self.get_spec_info(size * 4)
        rows = None if info.lora_rows is None else info.lora_rows.data_ptr()
        captured.append((size, label, info.bidirectional, rows, info.num_tokens_per_req))
        assert self.attn_backend.target_verify_metadata == {"of": GraphKind(label)}

    monkeypatch.setattr(parent, "capture_one_shape", capture)
    runner.capture_one_shape(2, None)
    static = runner.lora_rows.data_ptr()
    assert captured == [
        (2, "verify", False, None, 4),
        (2, "draft", True, None, 4),
        (2, "draft_lora", True, static, 4),
    ]
    with pytest.raises(RuntimeError, match="none is being captured"):
        runner.get_spec_info(4)


def test_decode_steps_are_captured_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    parent, _, decode = runners()
    runner = object.__new__(decode)
    runner.capture_forward_mode = ForwardMode.TARGET_VERIFY
    monkeypatch.setattr(parent, "capture", lambda self: None)
    runner.capture()
    assert runner.capture_forward_mode is ForwardMode.DECODE
    assert runner.get_spec_info(4) is None


def test_the_backend_gets_its_own_method_back() -> None:
    from nemotron_diffusion_plugin.sglang.graphs.runner import _indices_by_request

    class Backend:
        max_context_len = 100

        def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int, kv_indices_buf: Any = None) -> None:
            self.given = None if kv_indices_buf is None else (kv_indices_buf.dtype, len(kv_indices_buf))

    backend = Backend()
    runner = SimpleNamespace(attn_backend=backend, device="cpu")
    with _indices_by_request(runner, torch.int32):
        backend.init_cuda_graph_state(3, 12)
    assert backend.given == (torch.int32, 312)
    backend.init_cuda_graph_state(3, 12)
    assert backend.given is None
    with _indices_by_request(runner, None):
        backend.init_cuda_graph_state(3, 12)
    assert backend.given is None


OPTIONS: list[dict[str, Any]] = [
    {"decoding_mode": "ar"},
    {"decoding_mode": "self_speculation"},
    {"decoding_mode": "self_speculation", "draft_lora": False},
    {"decoding_mode": "diffusion", "threshold": 0.5},
]


def ask(server: Server, prompt: list[int], options: dict[str, Any], tokens: int) -> tuple[list[int], int]:
    """The tokens of a request, and how many verify forwards it took."""
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True, "custom_params": options}
    body = json.dumps({"input_ids": prompt, "sampling_params": sampling}).encode()
    request = urllib.request.Request(f"{server.url}/generate", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        content = json.load(answer)
    return content["output_ids"], content["meta_info"]["spec_verify_ct"]


@pytest.mark.long
def test_a_server_whose_graphs_are_simulated(tmp_path: Path) -> None:
    """Tokens and forwards are the reference decoder's, alone and side by side; every replay was of the right kind."""
    config = write_random_checkpoint(tmp_path / "model", seed=3)
    decoder = ReferenceDecoder.from_checkpoint(tmp_path / "model")
    defaults = DecodingOptions.for_model(config.block_size)
    cases, expected = [], []
    for number, options in enumerate(OPTIONS * 2):
        prompt = [128 + (number + 3) * k % 800 for k in range(5 + 9 * number)]
        cases.append((prompt, options, 40))
        parsed = DecodingOptions.parse(options, defaults, config.block_size)
        answer = decoder.generate(prompt, 40, parsed, ignore_eos=True)
        expected.append((answer.token_ids, answer.verify_forwards))
    log = tmp_path / "replays"
    folder = Path(__file__).parent / "simulated_graphs"
    variables = {"SIMULATED_GRAPHS_LOG": str(log), "PYTHONPATH": str(folder)}
    with (
        Server(tmp_path / "model", log=tmp_path / "server.log", variables=variables) as server,
        ThreadPoolExecutor(len(cases)) as pool,
    ):
        assert [ask(server, *case) for case in cases] == expected
        alone = Counter(line.split()[0] for line in log.read_text().splitlines())
        for group in (slice(None), slice(1, 4), slice(0, None, 4)):
            assert list(pool.map(lambda case: ask(server, *case), cases[group])) == expected[group]
    replays = [line.split() for line in log.read_text().splitlines()]
    assert alone.keys() == {"None", "verify", "draft", "draft_lora"}
    assert all(graph == asked for graph, asked, *_ in replays)
    assert any(int(size) < int(captured) for *_, size, captured in replays)
