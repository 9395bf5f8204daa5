"""Counter-based randomness: published vectors, numpy against torch, statistics, independence of how counters are laid out."""

import math

import numpy
import pytest
import torch

from gradflow.runtime import random

KEY = random.key(0, "test")
ONES = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize(
    "key, counter, expected",
    [  # Random123, tests/kat_vectors, philox4x32 10
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES), (ONES, ONES, ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0xA4093822, 0x299F31D0), PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_published_vectors(key, counter, expected):
    for words in (random.philox(key, tuple(numpy.array([c]) for c in counter)), random.philox(key, tuple(torch.tensor([c]) for c in counter))):
        assert tuple(int(word[0]) for word in words) == expected
    low, high = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    signed = [value - (1 << 64) if value >> 63 else value for value in (low, high)]
    assert tuple(int(word) for word in random.bits(key, signed[0], stream=signed[1])) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_numpy_and_torch_agree(device):
    counters = numpy.concatenate([numpy.arange(random.BLOCK + 1000), [-1, 2**62, -(2**63), 2**33 + 5]])
    stream = counters[::-1] * 977
    tensors = torch.tensor(counters, device=device), torch.tensor(stream.copy(), device=device)
    for ours, theirs in zip(random.bits(KEY, counters, stream=stream), random.bits(KEY, tensors[0], stream=tensors[1])):
        assert (ours == theirs.cpu().numpy()).all()
        assert ours.min() >= 0 and ours.max() < 2**32
    uniform = random.uniform(KEY, tensors[0], stream=tensors[1])
    assert uniform.dtype == torch.float64 and uniform.device.type == device
    assert (random.uniform(KEY, counters, stream=stream) == uniform.cpu().numpy()).all()
    numpy.testing.assert_allclose(random.normal(KEY, counters), random.normal(KEY, tensors[0]).cpu().numpy(), rtol=1e-13, atol=1e-14)
    assert (random.permutation(KEY, 1000) == random.permutation(KEY, 1000, torch).numpy()).all()


def test_a_draw_depends_on_its_own_counter_only():
    whole = random.uniform(KEY, numpy.arange(200_000))
    assert (random.uniform(KEY, numpy.arange(100_000, 200_000)) == whole[100_000:]).all()
    assert random.uniform(KEY, 7) == whole[7] == random.uniform(KEY, torch.tensor(7)).item()
    assert (random.uniform(KEY, [[3, 1], [2, 0]]) == whole[[[3, 1], [2, 0]]]).all()
    table = random.uniform(KEY, numpy.arange(5)[None, :], stream=numpy.arange(4)[:, None])
    assert table.shape == (4, 5) and len(set(table.ravel().tolist())) == 20
    assert (table[2] == random.uniform(KEY, numpy.arange(5), stream=2)).all()
    assert random.uniform(KEY, []).shape == (0,)


def test_keys_hash_words_apart():
    words = [(0,), (1,), (0, 1), (0, "1"), (0, "a", "b"), (0, "ab"), (0, "ab", "c"), (0, "a", "bc"), (0, 1, 2), (0, 12), (0, -1), (2**70,)]
    assert len({random.key(*word) for word in words}) == len(words)
    assert random.key(0, "sample", 3) == (1101070817, 612597092), "keys are part of the promise: the same on every machine and version"


def test_uniforms_are_uniform():
    u = random.uniform(KEY, numpy.arange(400_000))
    assert 0 <= u.min() < 1e-5 and 1 - 1e-5 < u.max() < 1
    counts = numpy.histogram(u, bins=256, range=(0, 1))[0]
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi_square - 255) < 4 * math.sqrt(2 * 255)
    assert abs(numpy.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(len(u))
    assert abs(numpy.corrcoef(u, random.uniform(random.key(1, "test"), numpy.arange(len(u))))[0, 1]) < 4 / math.sqrt(len(u))
    assert (u * 2**53 == numpy.floor(u * 2**53)).all() and (u * 2**53 % 2).mean() == pytest.approx(0.5, abs=0.004)


def test_every_bit_is_fair():
    for word in random.bits(KEY, numpy.arange(50_000)):
        ones = [(word >> bit & 1).mean() for bit in range(32)]
        assert max(abs(share - 0.5) for share in ones) < 5 * 0.5 / math.sqrt(50_000)


def test_normals_are_normal():
    x = random.normal(KEY, numpy.arange(400_000))
    n = len(x)
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs((x**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert (numpy.abs(x) > 3).mean() == pytest.approx(0.0027, rel=0.15)
    assert numpy.isfinite(x).all()


def test_permutations_and_subsets():
    order = random.permutation(KEY, 50)
    assert sorted(order.tolist()) == list(range(50)) and order.tolist() != list(range(50))
    assert (random.subset(KEY, 50, 7) == order[:7]).all()
    firsts = numpy.array([random.permutation(random.key(seed), 5)[0] for seed in range(4000)])
    assert numpy.bincount(firsts, minlength=5) == pytest.approx(numpy.full(5, 800), abs=4 * math.sqrt(800))
    with pytest.raises(ValueError, match="6 different numbers were asked for, there are 5"):
        random.subset(KEY, 5, 6)
