import pytest

from nemotron_diffusion_plugin.model.hardware import GPUS, find_gpu


def test_known_cards():
    assert set(GPUS) == {"a100", "h100", "h200", "b200"}
    assert find_gpu("H200") is GPUS["h200"]
    assert GPUS["a100"].fp8_tflops == GPUS["a100"].tflops


def test_measured_values_replace_those_of_the_data_sheet():
    gpu = find_gpu("b200", bandwidth=7.0, tflops=1125.0)
    assert (gpu.bandwidth, gpu.tflops, gpu.fp8_tflops, gpu.memory_gb) == (7.0, 1125.0, 2250.0, 180.0)


def test_custom_cards():
    gpu = find_gpu("custom", 1.0, 100.0)
    assert (gpu.bandwidth, gpu.tflops, gpu.fp8_tflops, gpu.memory_gb) == (1.0, 100.0, 100.0, None)
    with pytest.raises(ValueError, match="--gpu custom: expected --bandwidth"):
        find_gpu("custom", bandwidth=1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_numbers(value):
    with pytest.raises(ValueError, match="--bandwidth: got"):
        find_gpu("h200", bandwidth=value)
    with pytest.raises(ValueError, match="--tflops: got"):
        find_gpu("h200", tflops=value)
