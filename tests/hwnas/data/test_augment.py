"""Augmentation: what it may do to an image, and that a seed repeats it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.data import load_data
from hwnas.data.augment import Augmentation
from hwnas.spaces.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_a_window_of_its_padded_self(flip: bool) -> None:
    images = torch.from_numpy(load_data("digits").test.images[:200]).repeat(1, 2, 1, 1)
    images[:, 1] = 255 - images[:, 1]  # two channels that must move together
    seen = set()
    for image, out in zip(images, Augmentation(pad=2, flip=flip).geometric(images, generator()), strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        candidates = {
            (top, left, mirrored): (window.flip(2) if mirrored else window)
            for top in range(5)
            for left in range(5)
            for window in [padded[:, top : top + 8, left : left + 8]]
            for mirrored in (False, True)[: 1 + flip]
        }
        matches = [key for key, window in candidates.items() if torch.equal(window, out)]
        assert matches
        seen.add(matches[0])
    assert len(seen) > 20
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})


def test_holes_have_the_wanted_size_and_share() -> None:
    images = torch.ones(2000, 1, 16, 16)
    out = Augmentation(erasing=0.25, hole=0.5).erase(images, generator())
    holes = (out == 0).flatten(1).sum(1)
    assert (holes > 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert holes.max() <= 81
    assert holes[holes > 0].min() >= 16  # a hole at a corner is a quarter of a whole one


def test_nothing_is_done_unless_asked_for() -> None:
    images = torch.from_numpy(load_data("digits").test.images[:20])
    assert Augmentation().geometric(images, generator()) is images
    assert load_data("digits").augmentation.flip is False


def test_an_epoch_repeats_from_its_seed_and_number() -> None:
    data = load_data("digits")

    def epoch(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        batches = list(data.training_batches(64, seed=seed, epoch=number))
        return np.concatenate([x.numpy() for x, _ in batches]), np.concatenate([y.numpy() for _, y in batches])

    images, labels = epoch(0, 0)
    assert images.shape == (1024, 1, 8, 8)  # whole batches only
    again, _ = epoch(0, 0)
    assert np.array_equal(images, again)
    for seed, number in ((0, 1), (1, 0)):
        assert not np.array_equal(labels, epoch(seed, number)[1])


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    data = load_data("digits", limit=20)
    batches = list(data.training_batches(64, seed=0, epoch=0))
    assert [len(labels) for _, labels in batches] == [20]
    assert data.steps(64) == 1


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="erasing"):
        Augmentation(erasing=2)
