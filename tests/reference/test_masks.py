from nemotron_diffusion_plugin.reference import masks


def drawn(mask):
    return ["".join("x" if visible else "." for visible in row) for row in mask.tolist()]


def test_causal():
    assert drawn(masks.causal(3)) == ["x..", "xx.", "xxx"]
    assert drawn(masks.causal(2, cached=2)) == ["xxx.", "xxxx"]


def test_bidirectional():
    assert drawn(masks.bidirectional(2, cached=1)) == ["xxx", "xxx"]


def test_prompt_and_masks():
    assert drawn(masks.prompt_and_masks(2, 2)) == ["x...", "xx..", "xxxx", "xxxx"]


def test_quadratic():
    # cached position, then draft 0 with its two masks, then draft 1 with its two masks
    assert drawn(masks.quadratic(2, cached=1)) == [
        "xx.....",
        "xxxx...",
        "xxxx...",
        "xx..x..",
        "xx..xxx",
        "xx..xxx",
    ]
