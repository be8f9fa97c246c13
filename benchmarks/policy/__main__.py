"""Print the simulation's tables in Markdown: `python -m benchmarks.policy`."""

from types import SimpleNamespace

from benchmarks.policy.simulation import FIXED, Row, compare
from benchmarks.policy.traces import SCENARIOS, Scenario
from nemotron_diffusion_plugin.auto.requests import arithmetic_costs
from nemotron_diffusion_plugin.costs import ForwardCosts
from nemotron_diffusion_plugin.model.shapes import PUBLISHED

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def h200_costs() -> ForwardCosts:
    """The default costs of the 8B model on an H200."""
    shape = PUBLISHED["8B"]
    config = SimpleNamespace(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
    )
    return arithmetic_costs(config, "h200")


def header() -> list[str]:
    """The first lines of a table."""
    names = ["AR", *(f"block {block}" for block in FIXED[1:])]
    return [
        "| requests | auto | " + " | ".join(names) + " | regret | auto / AR |",
        "| ---: " * (len(names) + 4) + "|",
    ]


def line(row: Row) -> str:
    """One line of a table."""
    cells = [
        f"**{row.fixed[block]:.0f}**" if block == row.best else f"{row.fixed[block]:.0f}" for block in FIXED
    ]
    return " | ".join(
        [
            f"| {row.concurrency}",
            f"{row.auto:.0f}",
            *cells,
            f"{100 * row.regret:.1f} %",
            f"{row.over_ar:.2f} |",
        ]
    )


def table(scenario: Scenario, costs: ForwardCosts) -> list[str]:
    """The table of one scenario."""
    return header() + [line(compare(scenario, concurrency, costs)) for concurrency in CONCURRENCIES]


def main() -> None:
    """Print every scenario."""
    costs = h200_costs()
    for name, scenario in SCENARIOS.items():
        print(f"\n### {name[0].upper()}{name[1:]}\n")
        print("\n".join(table(scenario, costs)))


if __name__ == "__main__":
    main()
