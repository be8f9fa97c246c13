"""Check and time the kernels beside their alternatives: `python -m benchmarks.kernels`.

Every operator is checked against a float64 reference on fresh random inputs and then timed: median, cold caches.
The last column is the rate at which the bytes that must be moved were moved, as a share of the bandwidth of a copy
measured in the same run. Without a GPU only `--small` runs: it shows that everything works, its times mean nothing.
The exit status is 1 when a check failed.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

from benchmarks.arguments import within
from benchmarks.attention_cases import attention_cases
from benchmarks.cases import Case
from benchmarks.low_rank_cases import low_rank_cases
from benchmarks.row_cases import accept_cases, commit_cases, drawn_pick_cases, pick_cases
from benchmarks.timing import copy_bandwidth, device, median_seconds
from nemotron_diffusion_plugin.tools.errors import errors_in_one_line
from nemotron_diffusion_plugin.tools.outputs import new_file

OPERATORS = {
    "block_attention": attention_cases,
    "pick": pick_cases,
    "commit": commit_cases,
    "accept": accept_cases,
    "pick_drawn": drawn_pick_cases,
    "low_rank": low_rank_cases,
}
ALL = "all"
DEFAULT = ("block_attention", "pick", "commit", "accept")
HEADER = ("operator", "shape", "implementation", "error", "µs", "TB/s", "of copy")


@dataclass
class Line:
    """One line of the table; `reason` says why an implementation was not timed."""

    operator: str
    shape: str
    bytes_moved: int
    implementation: str
    error: float | None = None
    is_good: bool = True
    seconds: float | None = None
    reason: str = ""

    def cells(self, bandwidth: float) -> list[str]:
        error = "" if self.error is None else f"{self.error:.1e}" + ("" if self.is_good else " WRONG")
        start = [self.operator, self.shape, self.implementation, error]
        if self.seconds is None:
            return [*start, f"not run: {self.reason}", "", ""]
        rate = self.bytes_moved / self.seconds
        return [*start, f"{self.seconds * 1e6:.1f}", f"{rate / 1e12:.3f}", f"{rate / bandwidth:.0%}"]


def measure(case: Case, seconds: float) -> list[Line]:
    """Check and time a case's kernel, then time what it is compared with."""
    what = (case.operator, case.shape, case.bytes_moved)
    error = case.error()
    is_good = error <= case.tolerance  # false for NaN
    lines = [Line(*what, "this kernel", error, is_good, median_seconds(case.calls, seconds))]
    for name, prepare in case.others.items():
        line = Line(*what, name)
        try:
            line.seconds = median_seconds(prepare(), seconds)
        except Exception as problem:  # an alternative may be absent or refuse the shape; the table says why
            line.reason = (
                (str(problem).strip() or type(problem).__name__).splitlines()[0][:60].replace("|", "/")
            )
        lines.append(line)
    return lines


def table(lines: Sequence[Line], bandwidth: float) -> str:
    """Return the lines as a markdown table."""
    rows = [HEADER, ("---",) * len(HEADER), *(line.cells(bandwidth) for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine(bandwidth: float, seed: int) -> str:
    """Return what the numbers were measured on."""
    import triton

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, Triton's interpreter"
    return (
        f"{card}, {datetime.date.today().isoformat()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"Triton {triton.__version__}, CUDA {torch.version.cuda}, seed {seed}. "
        f"Copy bandwidth {bandwidth / 1e12:.3f} TB/s."
    )


@errors_in_one_line()
def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument(
        "operators",
        nargs="*",
        metavar="OPERATOR",
        help=f"of {', '.join(OPERATORS)}, or {ALL}; default {', '.join(DEFAULT)}",
    )
    parser.add_argument("--small", action="store_true", help="tiny shapes; all that runs without a GPU")
    parser.add_argument(
        "--seconds",
        type=within(float, 0.001, 1e4),
        default=0.3,
        help="device time per measurement (default 0.3)",
    )
    parser.add_argument(
        "--seed", type=within(int, 0, 2**31 - 1), help="of the random inputs; a fresh one by default"
    )
    parser.add_argument(
        "--output", type=Path, help="markdown file to write, such as docs/benchmarks/kernels.md"
    )
    parser.add_argument("--json", type=Path, help="JSON file to write, with every line of the table")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.operators) - {ALL, *OPERATORS})
    if unknown:
        parser.error(f"got operator {unknown[0]!r}, expected one of {', '.join(OPERATORS)}")
    if not options.small and not torch.cuda.is_available():
        parser.error("there is no GPU; --small runs the script in Triton's interpreter")

    with ExitStack() as stack:
        files = [path and stack.enter_context(new_file(path)) for path in (options.output, options.json)]
        return measure_all(options, *files)


def measure_all(options: argparse.Namespace, page: Path | None, results: Path | None) -> int:
    """Measure what the options say, print the table, and write it where files are given."""
    seed = torch.seed() % 2**31 if options.seed is None else options.seed
    torch.manual_seed(seed)
    bandwidth = copy_bandwidth((1 << 22) if options.small else (1 << 30), options.seconds)
    lines: list[Line] = []
    operators = OPERATORS if ALL in options.operators else options.operators or DEFAULT
    for operator in operators:
        for case in OPERATORS[operator](options.small, device()):
            lines += measure(case, options.seconds)
            print(f"{case.operator}: {case.shape}", file=sys.stderr, flush=True)
    text = f"{machine(bandwidth, seed)}\n\n{table(lines, bandwidth)}\n"
    print(text)
    if page is not None:
        page.write_text(f"# Kernels\n\n{text}", encoding="utf-8")
    if results is not None:
        content = {
            "machine": machine(bandwidth, seed),
            "copy_bytes_per_second": bandwidth,
            "lines": [asdict(line) for line in lines],
        }
        results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if all(line.is_good for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
