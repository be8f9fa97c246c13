import math

import pytest
import torch

from nemotron_diffusion_plugin.model.rope import query_scale, yarn_attention_factor, yarn_inv_freq, yarn_ramp

PUBLISHED = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}

INV_FREQ_THETA_1E6 = {
    0: 1.0,
    1: 0.8058421877614819,
    13: 0.06042963902381328,
    20: 0.01333521432163324,
    25: 0.0032820660904682394,
    28: 0.0013251794237521014,
    30: 6.907023388943309e-4,
    37: 2.1238802055890994e-05,
    63: 7.755861004698247e-08,
}
INV_FREQ_THETA_1E9 = {
    1: 0.7233941627366748,
    13: 0.014855080171727751,
    20: 6.977792071207072e-4,
    25: 1.906579931416891e-05,
    63: 8.639826420986872e-11,
}


@pytest.mark.parametrize(
    ("theta", "ramp", "vector"),
    [(1e6, (20, 37), INV_FREQ_THETA_1E6), (1e9, (13, 25), INV_FREQ_THETA_1E9)],
)
def test_published_inverse_frequencies(theta, ramp, vector):
    rope = {**PUBLISHED, "rope_theta": theta}
    assert yarn_ramp(128, rope) == ramp
    inv_freq = yarn_inv_freq(128, rope)
    assert inv_freq.dtype == torch.float32
    assert inv_freq.shape == (64,)
    for index, value in vector.items():
        assert inv_freq[index].item() == pytest.approx(value, rel=5e-7), index


def test_factor_below_one_raises_low_frequencies():
    rope = {**PUBLISHED, "factor": 0.25}
    plain = yarn_inv_freq(128, {"rope_type": "default", "rope_theta": 1e6})
    scaled = yarn_inv_freq(128, rope)
    torch.testing.assert_close(scaled[:21], plain[:21])
    torch.testing.assert_close(scaled[37:], plain[37:] * 4.0)
    assert yarn_attention_factor(rope) == 1.0


def test_default_type_is_not_scaled():
    inv_freq = yarn_inv_freq(4, {"rope_type": "default", "rope_theta": 10000.0})
    torch.testing.assert_close(inv_freq, torch.tensor([1.0, 0.01]))


def test_agrees_with_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {key: value for key, value in PUBLISHED.items() if key != "llama_4_scaling_beta"}
    for head_dim, original, theta in ((128, 16384, 1e6), (32, 64, 1e4), (64, 256, 1e5)):
        rope |= {"original_max_position_embeddings": original, "rope_theta": theta}
        config = LlamaConfig(
            head_dim=head_dim, rope_parameters=dict(rope), max_position_embeddings=original * 16
        )
        expected, factor = ROPE_INIT_FUNCTIONS["yarn"](config)
        assert torch.equal(yarn_inv_freq(head_dim, rope), expected)
        assert yarn_attention_factor(rope) == factor == 1.0


def test_attention_factor_follows_mscale():
    assert yarn_attention_factor(PUBLISHED) == 1.0
    unequal = {**PUBLISHED, "mscale_all_dim": 0.5}
    expected = (0.1 * math.log(16) + 1) / (0.05 * math.log(16) + 1)
    assert yarn_attention_factor(unequal) == pytest.approx(expected)
    assert yarn_attention_factor({"rope_type": "default", "rope_theta": 1e4}) == 1.0


def test_published_query_scale():
    positions = torch.tensor([0, 16383, 16384, 32768, 49152, 262143])
    expected = torch.tensor([1.0, 1.0, 1.0693147, 1.1098612, 1.1386294, 1.2772589])
    scale = query_scale(positions, PUBLISHED)
    assert scale.dtype == torch.float32
    torch.testing.assert_close(scale, expected, rtol=1e-7, atol=1e-7)


def test_query_scale_keeps_the_shape_and_is_one_without_beta():
    positions = torch.tensor([[5, 20000], [40000, 7]])
    assert query_scale(positions, PUBLISHED).shape == (2, 2)
    rope = {key: value for key, value in PUBLISHED.items() if key != "llama_4_scaling_beta"}
    assert query_scale(positions, rope).eq(1.0).all()
