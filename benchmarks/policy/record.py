"""Record how many drafts the bundled model accepts at every place of its answers.

`python -m benchmarks.policy.record` writes `acceptance.json`, and with `--others` `other-acceptance.json`.
"""

import argparse
import json
import random

from benchmarks.arguments import within
from benchmarks.policy.traces import BLOCKS, OTHER_PATH, PATH
from nemotron_diffusion_plugin.assets import BUNDLED_CHECKPOINT
from nemotron_diffusion_plugin.options import DecodingMode, DecodingOptions
from nemotron_diffusion_plugin.reference.decoder import ReferenceDecoder
from nemotron_diffusion_plugin.tools.errors import errors_in_one_line
from nemotron_diffusion_plugin.tools.outputs import new_file
from nemotron_diffusion_plugin.tools.training import tasks
from nemotron_diffusion_plugin.tools.training.conversations import ChatEncoder

AR = DecodingOptions(decoding_mode=DecodingMode.AR)


def accepted_drafts(decoder: ReferenceDecoder, prompt: list[int], answer: list[int], block: int) -> list[int]:
    """Return, for each token of an AR answer but the last, how many drafts of the block it seeds are accepted.

    Those behind the answer's end are not counted. The token is the seed that the prefill before it emits.
    """
    options = DecodingOptions(decoding_mode=DecodingMode.SELF_SPECULATION, block_size=block)
    counts = []
    for place in range(len(answer) - 1):
        cycle = decoder.generate([*prompt, *answer[:place]], 2, options)
        counts.append(min(cycle.accepted[0], len(answer) - 1 - place))
    return counts


@errors_in_one_line()
def main() -> None:
    """Write the recording."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=within(int, 1, 10_000), default=3, help="answers of each category")
    parser.add_argument(
        "--others", action="store_true", help="for questions that the policy was not tried on"
    )
    given = parser.parse_args()
    with new_file(OTHER_PATH if given.others else PATH) as part:
        lines = [f'"{name}": {json.dumps(answers)}' for name, answers in recorded(given).items()]
        part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def recorded(given: argparse.Namespace) -> dict[str, list[dict[int, list[int]]]]:
    """Return by category, for each answer and block length, how many drafts are accepted at every place."""
    decoder, encoder = ReferenceDecoder.from_checkpoint(BUNDLED_CHECKPOINT), ChatEncoder(BUNDLED_CHECKPOINT)
    found: dict[str, list[dict[int, list[int]]]] = {}
    for category in tasks.CATEGORIES:
        rng = random.Random(f"{'other ' if given.others else ''}policy {category}")
        found[category] = []
        for _ in range(given.answers):
            prompt = encoder.prompt(tasks.draw(rng, held_out=True, category=category).question)
            answer = decoder.generate(prompt, 96, AR).token_ids
            counts = {block: accepted_drafts(decoder, prompt, answer, block) for block in BLOCKS}
            found[category].append(counts)
    return found


if __name__ == "__main__":
    main()
