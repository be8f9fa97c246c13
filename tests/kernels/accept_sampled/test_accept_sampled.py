import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemotron_diffusion_kernels.accept import accept
from nemotron_diffusion_kernels.accept_sampled import BlockLogits, accept_sampled, draw, normalizers
from nemotron_diffusion_kernels.noise import RowNoise
from nemotron_diffusion_kernels.pick import Sampling, pick
from tests.kernels.chi_square import chi_square

# NumPy, behind the interpreter, warns about rows that a request does not have; the GPU does not
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning")

INF = torch.inf
DRAFT_STEP, STEP = 0, 1


def make_batch(num_drafts, width, vocabulary, temperature, dtype=torch.float32, seed=0, mask_token_id=None):
    """Packed random rows of ragged requests, their drafts drawn from the draft rows by `pick`."""
    generator = torch.Generator().manual_seed(seed)
    requests, counts = len(num_drafts), [max(0, min(count, width)) for count in num_drafts]
    active = [count >= 0 for count in num_drafts]
    temperature = torch.as_tensor(temperature, dtype=torch.float32).expand(requests).clone()
    lengths = torch.arange(requests) * 1000 + 3
    seeds = torch.arange(requests) + 17

    def rows(sizes):
        first = torch.tensor([0, *sizes]).cumsum(0)[:-1].int()[:requests]
        return BlockLogits((torch.randn(sum(sizes), vocabulary, generator=generator) * 2).to(dtype), first)

    verify = rows([(count + 1) * is_active for count, is_active in zip(counts, active, strict=True)])
    draft = rows(counts)
    drafts = torch.full((requests, width), -1)
    for request, count in enumerate(counts):
        first = int(draft.first_rows[request])
        noise = RowNoise(
            seeds[request].expand(count).clone(),
            lengths[request] + 1 + torch.arange(count),
            torch.full((count,), DRAFT_STEP),
        )
        sampling = Sampling(temperature[request].expand(count).clone(), noise)
        drawn = pick(draft.logits[first : first + count], mask_token_id, sampling=sampling, backend="torch")
        drafts[request, :count] = drawn.tokens
    return {
        "drafts": drafts,
        "num_drafts": torch.tensor(num_drafts, dtype=torch.int64),
        "lengths": lengths,
        "verify": verify,
        "temperature": temperature,
        "seeds": seeds,
        "steps": torch.full((requests,), STEP),
        "draft": draft,
        "mask_token_id": mask_token_id,
    }


def on(device, value):
    if isinstance(value, BlockLogits):
        return BlockLogits(*(part.to(device) for part in value))
    return value.to(device) if isinstance(value, torch.Tensor) else value


def assert_matches(batch):
    """The kernels emit what the reference emits; returns it as lists."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = accept_sampled(**{name: on(device, value) for name, value in batch.items()}, backend="triton")
    wanted = accept_sampled(**batch, backend="torch")
    for got, want in zip(result, wanted, strict=True):
        assert got.dtype == want.dtype == torch.int64
        assert got.cpu().tolist() == want.tolist()
    return [part.tolist() for part in wanted]


def poison(monkeypatch):
    """Fill every buffer with NaN, or an id that does not exist, before the kernels run."""
    empty = torch.Tensor.new_empty

    def poisoned(self, *arguments, **options):
        made = empty(self, *arguments, **options)
        return made.fill_(torch.nan if made.is_floating_point() else -77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_ragged_batch_matches_the_reference(dtype, monkeypatch):
    poison(monkeypatch)
    monkeypatch.setattr(normalizers, "_TILE", 64)
    monkeypatch.setattr(draw, "_TILE", 32)
    batch = make_batch([3, 0, -1, 2, 9, 2], 3, 121, [1.0, 0.7, 1.0, 0.0, 3.0, 0.4], dtype, mask_token_id=100)
    accepted, emitted, seeds, lengths = assert_matches(batch)
    assert accepted[2] == 0
    assert emitted[2] == [-1] * 4
    assert (seeds[2], lengths[2]) == (-1, 2003)
    for request in (0, 1, 3, 4, 5):
        count = accepted[request]
        assert emitted[request][:count] == batch["drafts"][request, :count].tolist()
        assert emitted[request][count] == seeds[request] >= 0
        assert lengths[request] == batch["lengths"][request] + count + 1


def test_the_default_tiles():
    assert_matches(make_batch([1], 1, 9001, 0.9, torch.bfloat16, mask_token_id=100))


def test_elements_past_two_to_the_31(device):
    if device.type != "cpu":
        pytest.skip("needs 4 GB that only a CPU leaves untouched")
    batch, far = make_batch([1, 0], 1, 40, 0.9, torch.bfloat16), 2**31 + 4096
    storage = torch.empty(2 * far + 40, dtype=torch.bfloat16)  # memory that nobody touches costs nothing
    logits = storage.as_strided((3, 40), (far, 1))
    logits.copy_(batch["verify"].logits)
    assert assert_matches({**batch, "verify": BlockLogits(logits, batch["verify"].first_rows)}) == (
        assert_matches(batch)
    )


def test_drafts_that_were_not_drawn(monkeypatch):
    monkeypatch.setattr(draw, "_TILE", 32)
    batch = make_batch([3, 3, 3, 0], 3, 70, 0.8)
    assert_matches({**batch, "draft": None})
    assert_matches({**batch, "draft_temperature": torch.tensor([0.0, 0.8, 0.3, 0.0])})


def test_at_temperature_zero_it_is_greedy_acceptance():
    batch = make_batch([3, 3, 2, -1], 3, 40, 0.0)
    index = (batch["verify"].first_rows.long()[:3, None] + torch.arange(4)).clamp(max=10)
    verified = batch["verify"].logits.argmax(1)[index]
    verified = torch.cat([verified, verified[:1]])
    batch["drafts"][0] = verified[0, :3]
    batch["drafts"][1, 0] = verified[1, 0]
    wanted = accept(batch["drafts"], verified, batch["num_drafts"], batch["lengths"], backend="torch")
    assert assert_matches(batch) == [part.tolist() for part in wanted]
    assert wanted.accepted.tolist()[:2] == [3, 1]


def test_without_drafts_it_emits_what_pick_draws(device):
    batch = make_batch([0, 0, 0], 2, 90, [0.5, 1.0, 2.0])
    _, emitted, seeds, _ = assert_matches(batch)
    noise = RowNoise(batch["seeds"], batch["lengths"] + 1, batch["steps"])
    drawn = pick(batch["verify"].logits, None, sampling=Sampling(batch["temperature"], noise))
    assert seeds == drawn.tokens.tolist()
    assert emitted == [[token, -1, -1] for token in seeds]
    assert_matches({**batch, "drafts": batch["drafts"][:, :0]})


def test_drafts_from_the_verifiers_own_distribution_are_all_accepted():
    batch = make_batch([5, 2, 4], 5, 30, [1.0, 0.3, 2.0])
    rows = [
        batch["draft"].logits[int(first) : int(first) + count]
        for first, count in zip(batch["draft"].first_rows, [5, 2, 4], strict=True)
    ]
    same = torch.cat([torch.cat([part, part[:1]]) for part in rows])
    assert assert_matches({**batch, "verify": BlockLogits(same, torch.tensor([0, 6, 9]))})[0] == [5, 2, 4]


def test_a_request_gets_the_same_tokens_alone_and_in_a_batch():
    batch = make_batch([3, 1, 2], 3, 50, [1.0, 0.6, 1.3])
    together = assert_matches(batch)
    for request in range(3):
        alone = {
            name: value[request : request + 1] if isinstance(value, torch.Tensor) and value.ndim else value
            for name, value in batch.items()
            if name not in ("verify", "draft")
        }
        for name in ("verify", "draft"):
            alone[name] = BlockLogits(batch[name].logits, batch[name].first_rows[request : request + 1])
        assert assert_matches(alone) == [part[request : request + 1] for part in together]


def test_ruled_out_and_undefined_logits():
    batch = make_batch([2, 2, 2, 2, 2], 2, 20, 1.0)
    logits, drafts = batch["verify"].logits, batch["drafts"]
    logits[0, drafts[0, 0]] = -INF  # the first draft is impossible
    logits[3] = -INF
    logits[3, 7] = 1.0  # one id is certain
    logits[6] = torch.nan
    logits[9, 4] = torch.nan
    drafts[4, 0] = 99  # no id
    batch["drafts"][1, 0] = 7
    batch["draft"].logits[2, 7] = 3.0
    accepted, emitted, *_ = assert_matches(batch)
    assert accepted[0] == 0
    assert emitted[0][0] != drafts[0, 0]
    assert accepted[1] >= 1
    assert accepted[2] == accepted[4] == 0
    assert all(0 <= token < 20 for row in emitted for token in row if token != -1)


def test_no_requests_and_only_idle_requests():
    assert assert_matches(make_batch([], 3, 20, 1.0)) == [[], [], [], []]
    idle = assert_matches(make_batch([-1, -1], 3, 20, 1.0))
    assert idle == [[0, 0], [[-1] * 4] * 2, [-1, -1], [3, 1003]]


COUNT = 8000
VERIFY = torch.tensor([[0.05, 0.4, 0.45, 0.05, 0.05], [0.6, 0.05, 0.05, 0.1, 0.2], [0.2, 0.2, 0.2, 0.3, 0.1]])
DRAFT = torch.tensor([[0.6, 0.3, 0.02, 0.04, 0.04], [0.3, 0.1, 0.3, 0.2, 0.1]])


@functools.cache
def simulated(temperature=1.0, draft_temperature=1.0, draft_step=DRAFT_STEP):
    """Two drafts in each of many requests, all with the same rows and all drawn."""
    seeds = torch.arange(COUNT)
    zero = torch.zeros_like(seeds)
    degrees = torch.full((COUNT,), float(draft_temperature))
    draft_logits = DRAFT.log() * draft_temperature
    drafts = [
        pick(
            row.expand(COUNT, 5),
            None,
            sampling=Sampling(degrees, RowNoise(seeds, zero + 1 + index, zero + draft_step)),
            backend="torch",
        ).tokens
        for index, row in enumerate(draft_logits)
    ]
    return {
        "drafts": torch.stack(drafts, dim=1),
        "num_drafts": zero + 2,
        "lengths": zero,
        "verify": BlockLogits(VERIFY.log() * temperature, zero),
        "temperature": torch.full((COUNT,), float(temperature)),
        "seeds": seeds,
        "steps": zero + STEP,
        "draft": BlockLogits(draft_logits, zero),
        "draft_temperature": degrees,
    }


def misfit(result):
    """The worst chi-square over the emitted positions, each where it was reached."""
    reached = [tokens[tokens >= 0] for tokens in result.emitted.T]
    return max(chi_square(tokens, row) for tokens, row in zip(reached, VERIFY, strict=True))


@pytest.mark.parametrize(("temperature", "draft_temperature"), [(1.0, 1.0), (0.6, 1.4)])
def test_emitted_tokens_are_distributed_as_the_verifiers(temperature, draft_temperature):
    batch = simulated(temperature, draft_temperature)
    result = accept_sampled(**batch, backend="torch")
    assert misfit(result) < 5
    first, second = torch.minimum(VERIFY[:2], DRAFT).sum(1).tolist()  # the chance that a draft is accepted
    assert result.accepted.double().mean().item() == pytest.approx(first * (1 + second), rel=0.05)
    few = {
        name: BlockLogits(value.logits, value.first_rows[:6]) if isinstance(value, BlockLogits) else value[:6]
        for name, value in batch.items()
    }
    assert assert_matches(few)[1] == result.emitted[:6].tolist()


@pytest.mark.parametrize("drafts", ["picked", "drawn"])
def test_a_one_hot_q_is_lossless_for_any_drafts(drafts):
    batch = simulated()
    likeliest = DRAFT.argmax(1).expand(COUNT, 2).contiguous()
    told = {**batch, "draft": None, "drafts": likeliest if drafts == "picked" else batch["drafts"]}
    result = accept_sampled(**told, backend="torch")
    assert misfit(result) < 5
    if drafts == "picked":
        first, second = VERIFY[0, 0].item(), VERIFY[1, 0].item()
        assert result.accepted.double().mean().item() == pytest.approx(first * (1 + second), rel=0.1)


@pytest.mark.parametrize("wrong", ["noise", "temperature", "mask", "rows"])
def test_wrong_variants_are_caught(wrong):
    if wrong == "noise":  # what drew the drafts draws the corrections too
        batch = simulated(draft_step=STEP)
    else:
        batch = dict(simulated())
    if wrong == "temperature":  # not the one the drafts were drawn at
        batch["draft_temperature"] = torch.full((COUNT,), 0.7)
    if wrong == "mask":  # an id that was drawn is left out of q
        batch["mask_token_id"] = 0
    if wrong == "rows":  # q of the next position
        batch["draft"] = BlockLogits(batch["draft"].logits.flip(0), batch["draft"].first_rows)
    assert misfit(accept_sampled(**batch, backend="torch")) > 10


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_batch_matches_the_reference(data):
    width, vocabulary = data.draw(st.integers(0, 3)), data.draw(st.integers(2, 40))
    num_drafts = data.draw(st.lists(st.integers(-1, width + 1), min_size=1, max_size=3))
    temperature = [data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for _ in num_drafts]
    mask_token_id = data.draw(st.none() | st.integers(0, vocabulary - 1))
    batch = make_batch(
        num_drafts,
        width,
        vocabulary,
        temperature,
        seed=data.draw(st.integers(0, 99)),
        mask_token_id=mask_token_id,
    )
    if data.draw(st.booleans()):
        batch["draft"] = None
    sizes, normalizers._TILE, draw._TILE = (normalizers._TILE, draw._TILE), 16, 16
    try:
        assert_matches(batch)
    finally:
        normalizers._TILE, draw._TILE = sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drafts": torch.zeros(2, 200, dtype=torch.int64)}, "200 drafts a row, expected at most 127"),
        ({"seeds": torch.zeros(2, dtype=torch.int32)}, "seeds is int32, expected int64"),
        ({"temperature": torch.zeros(3)}, r"temperature has shape \(3,\), expected \(2\)"),
        ({"mask_token_id": 20}, "mask_token_id is 20, expected 0 to 19 or None"),
        (
            {"draft": BlockLogits(torch.zeros(2, 19), torch.zeros(2, dtype=torch.int64))},
            r"draft.logits has shape \(2, 19\), expected \(any, 20\)",
        ),
        (
            {"verify": BlockLogits(torch.zeros(20, 4).T, torch.zeros(2, dtype=torch.int64)), "draft": None},
            "verify.logits has stride 4 in its last dimension",
        ),
        (
            {"verify": BlockLogits(torch.zeros(4, 0), torch.zeros(2, dtype=torch.int64)), "draft": None},
            "has no columns",
        ),
        ({"backend": "jax"}, "got backend 'jax'"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        accept_sampled(**{**make_batch([2, 1], 2, 20, 1.0), **changes})
