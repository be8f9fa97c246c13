"""Check and time SGLang's CUDA graphs: `python -m benchmarks.sglang_graphs --out FOLDER`.

Writes a checkpoint with random weights, serves it with and without CUDA graphs in turn, and asks both servers the
same in all three modes, each request alone and 16 at once. In float32 the tokens and the number of verify forwards
must be the same with and without graphs and equal those of the reference decoder. In bfloat16 they may part where two
tokens are nearly as likely, so that only the share of equal tokens is shown. A replay of the wrong graph shows in the
tokens of diffusion and in the verify forwards of self-speculation, whose tokens are those of AR whatever was drafted.
Prints a table, writes `results.json`, both logs and the model under FOLDER; the exit status is 1 when float32 differs.
On a CPU there are no graphs: with `--device cpu` only the eager server is compared with the reference decoder.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import within
from nemotron_diffusion_plugin.options import DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.errors import errors_in_one_line
from nemotron_diffusion_plugin.tools.outputs import made
from nemotron_diffusion_plugin.tools.training.random_model import write_random_checkpoint
from tests.engines.sglang.launch import Server, ServerError, has_gpu

MODES: dict[str, dict[str, Any]] = {
    "ar": {"decoding_mode": "ar"},
    "self_speculation": {"decoding_mode": "self_speculation", "draft_lora": False},
    "self_speculation+lora": {"decoding_mode": "self_speculation"},
    "diffusion": {"decoding_mode": "diffusion", "threshold": 0.5},
}
AT_ONCE = 16
GPU_SHAPE = {
    "vocab_size": 32768,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rope_parameters": {"original_max_position_embeddings": 256},
}
HEADER = ("dtype", "server", "mode", "requests", "equal", "verify forwards", "tok/s", "s median")


@dataclass
class Case:
    """One greedy request."""

    mode: str
    prompt: list[int]
    tokens: int


@dataclass
class Answer:
    """Its tokens, the verify forwards they took, and the seconds until they were there."""

    tokens: list[int]
    verifies: int
    seconds: float = 0.0


@dataclass
class Line:
    """One line of the table: the requests of a mode, alone or at once, against the reference decoder."""

    dtype: str
    server: str
    mode: str
    requests: str
    equal: float
    verifies: int
    expected_verifies: int
    tokens_per_second: float
    median_seconds: float

    @property
    def is_good(self) -> bool:
        return self.equal == 1.0 and self.verifies == self.expected_verifies

    def cells(self) -> list[str]:
        share = f"{self.equal:.1%}" + ("" if self.is_good or self.dtype != "float32" else " WRONG")
        counts = f"{self.verifies} of {self.expected_verifies}"
        rate, median = f"{self.tokens_per_second:.1f}", f"{self.median_seconds:.3f}"
        return [self.dtype, self.server, self.mode, self.requests, share, counts, rate, median]


def make_cases(vocab: int, tokens: int, seed: int) -> list[Case]:
    """`AT_ONCE` requests, the modes in turn, with prompts of different lengths."""
    rng = random.Random(seed)
    modes = list(MODES)
    return [
        Case(modes[n % len(modes)], [rng.randrange(128, vocab) for _ in range(3 + 7 * n)], tokens)
        for n in range(AT_ONCE)
    ]


def reference_answers(folder: Path, cases: Sequence[Case], dtype: str) -> list[Answer]:
    """What the reference decoder answers, on the CPU."""
    decoder = ReferenceDecoder.from_checkpoint(folder, getattr(torch, dtype))
    block = decoder.model.config.block_size
    defaults = DecodingOptions.for_model(block)
    answers = []
    for case in cases:
        options = DecodingOptions.parse(MODES[case.mode], defaults, block)
        made = decoder.generate(case.prompt, case.tokens, options, ignore_eos=True)
        answers.append(Answer(made.token_ids, made.verify_forwards))
    return answers


def ask(url: str, case: Case) -> Answer:
    """Send one request; raises `ServerError` with the server's words when it refuses."""
    sampling: dict[str, Any] = {"temperature": 0, "max_new_tokens": case.tokens, "ignore_eos": True}
    sampling["custom_params"] = MODES[case.mode]
    body = json.dumps({"input_ids": case.prompt, "sampling_params": sampling}).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"content-type": "application/json"})
    start = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            content = json.load(answer)
    except urllib.error.HTTPError as error:
        raise ServerError(f"{case.mode}: {error}: {error.read().decode(errors='replace')}") from error
    seconds = time.perf_counter() - start
    return Answer(content["output_ids"], content["meta_info"]["spec_verify_ct"], seconds)


def ask_all(url: str, cases: Sequence[Case]) -> tuple[list[Answer], float]:
    """The answers to requests that are sent at once, and the seconds until the last one."""
    start = time.perf_counter()
    with ThreadPoolExecutor(len(cases)) as pool:
        answers = list(pool.map(lambda case: ask(url, case), cases))
    return answers, time.perf_counter() - start


def equal_share(got: Sequence[Answer], expected: Sequence[Answer]) -> float:
    """The share of tokens that come before the first difference of their request."""
    same = 0
    for one, other in zip(got, expected, strict=True):
        differs = (
            n for n, pair in enumerate(zip(one.tokens, other.tokens, strict=False)) if pair[0] != pair[1]
        )
        same += next(differs, min(len(one.tokens), len(other.tokens)))
    return same / max(1, sum(len(one.tokens) for one in expected))


def compare(
    name: tuple[str, str, str, str], got: list[Answer], expected: list[Answer], seconds: float
) -> Line:
    """A line for answers that took `seconds` together."""
    return Line(
        *name,
        equal=equal_share(got, expected),
        verifies=sum(one.verifies for one in got),
        expected_verifies=sum(one.verifies for one in expected),
        tokens_per_second=sum(len(one.tokens) for one in got) / seconds,
        median_seconds=statistics.median(one.seconds for one in got),
    )


def measure(
    url: str, dtype: str, server: str, cases: Sequence[Case], expected: Sequence[Answer]
) -> list[Line]:
    """Ask everything once to warm up and once more to compare and time it."""
    ask_all(url, cases)
    lines = []
    for mode in MODES:
        mine = [n for n, case in enumerate(cases) if case.mode == mode]
        alone = [ask(url, cases[n]) for n in mine]
        right, took = [expected[n] for n in mine], sum(one.seconds for one in alone)
        lines.append(compare((dtype, server, mode, "alone"), alone, right, took))
        repeated = [mine[n % len(mine)] for n in range(AT_ONCE)]
        answers, took = ask_all(url, [cases[n] for n in repeated])
        right = [expected[n] for n in repeated]
        lines.append(compare((dtype, server, mode, f"{AT_ONCE} at once"), answers, right, took))
    answers, took = ask_all(url, cases)
    lines.append(compare((dtype, server, "all modes", f"{AT_ONCE} at once"), answers, list(expected), took))
    return lines


def run(arguments: argparse.Namespace, dtype: str) -> list[Line]:
    """Compare the servers of one dtype."""
    gpu = arguments.device == "cuda"
    folder = arguments.out / f"model-{dtype}"
    config = write_random_checkpoint(folder, config=GPU_SHAPE if gpu else None, dtype=getattr(torch, dtype))
    cases = make_cases(config.vocab_size, arguments.tokens, seed=0)
    print(f"reference decoder, {dtype} …", flush=True)
    expected = reference_answers(folder, cases, dtype)
    options = ["--dtype", dtype, *arguments.server_options]
    if gpu:
        options += ["--cuda-graph-max-bs", str(AT_ONCE), "--attention-backend", arguments.attention_backend]
    lines = []
    for server, extra in (("eager", ["--disable-cuda-graph"]), ("graphs", []))[: 2 if gpu else 1]:
        print(f"server, {dtype}, {server} …", flush=True)
        with Server(
            folder,
            *options,
            *(extra if gpu else []),
            log=arguments.out / f"{dtype}-{server}.log",
            timeout=arguments.timeout,
        ) as running:
            lines += measure(running.url, dtype, server, cases, expected)
    return lines


def table(lines: Sequence[Line]) -> str:
    rows = [list(HEADER), *(line.cells() for line in lines)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)  # noqa: B905


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sglang_graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the results, the logs and the model"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if has_gpu() else "cpu")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), help="default: all the device has"
    )
    parser.add_argument(
        "--attention-backend", default="triton", help="on a GPU (default: triton, takes float32)"
    )
    parser.add_argument("--tokens", type=within(int, 1, 900), default=100, help="tokens of each answer")
    parser.add_argument(
        "--timeout", type=within(float, 1.0, 1e6), default=600.0, help="seconds a server may take to start"
    )
    parser.add_argument("server_options", nargs="*", help="options of SGLang's server, after --")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not has_gpu():
        parser.error("--device cuda: the NVIDIA driver lists no card here; use --device cpu")
    if chosen.device == "cpu" and has_gpu():
        parser.error("--device cpu: the launcher takes the card that the driver lists; use --device cuda")
    chosen.dtype = chosen.dtype or (["float32", "bfloat16"] if chosen.device == "cuda" else ["float32"])
    return chosen


@errors_in_one_line()
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parse(arguments)
    with made(chosen.out):
        return run_all(chosen)


def run_all(chosen: argparse.Namespace) -> int:
    """Run the servers, print the table and write the results."""
    lines: list[Line] = []
    try:
        for dtype in chosen.dtype:
            lines += run(chosen, dtype)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if lines:
            (chosen.out / "results.json").write_text(
                json.dumps([asdict(line) for line in lines], indent=2) + "\n"
            )
            print(table(lines))
    wrong = [line for line in lines if line.dtype == "float32" and not line.is_good]
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
