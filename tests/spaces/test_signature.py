"""Signatures of kernels read back to the same kernels."""

from __future__ import annotations

import pytest

from hwnas.spaces import ModelError, SearchSpace
from hwnas.spaces.signature import kernel_graph, kernel_op
from tests.spaces.test_spaces import draw, middle


@pytest.mark.parametrize("space", middle, ids=lambda space: space.name)
def test_every_kernel_reads_back(space: SearchSpace) -> None:
    for seed in range(3):
        for kernel in space.lower(draw(space, seed)).kernels:
            again = kernel_graph(kernel.signature)
            assert again.signature == kernel.signature
            assert again.macs == kernel.macs
            if len(kernel.inputs) == len(kernel.nodes[0].inputs):  # x + x reads one tensor twice
                # a signature does not say whether a convolution adds a bias, which takes no time
                assert again.bytes - kernel.bytes in (0, 4 * kernel.shapes[kernel.outputs[0]][1])
            assert kernel_op(kernel.signature) == kernel.label.split("(")[0]


@pytest.mark.parametrize(
    "text", ["", "conv", "mbconv(k=3)@1x2x3x4:float32", "conv(q=1)@1x2x3x4:float32", "conv(k=x)@1x2:float32", "add@:f"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ModelError):
        kernel_graph(text)
