"""PNAS's surrogates (arXiv 1712.00559, section 4.2): ensembles that predict an architecture's score from its parts.

All members are trained at once, their weights in one tensor each. Scores are standardised and the output is linear,
where the paper has a sigmoid: scores need not be accuracies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hwnas.spaces.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KINDS", "Surrogate"]

KINDS = ("mlp", "rnn")
#: Gradient steps of the first fit, and of each later one, which goes on from the weights before it.
STEPS = (200, 100)
RATES = (0.01, 0.002)
#: Architectures predicted at a time.
CHUNK = 16_384


class Surrogate:
    """An ensemble of predictors, each trained on all but one share of the data.

    Parameters
    ----------
    kind
        ``mlp``: the tokens of a part are embedded and joined, parts are averaged, two layers follow. ``rnn``: an LSTM
        reads the embedded tokens one by one.
    vocabularies, token_kinds
        See `hwnas.spaces.growing.Growing`.
    seed
        Of the weights, and of who is left out where.
    members
        Size of the ensemble; 1 is trained on everything.
    width
        Of embeddings and hidden layers.

    Raises
    ------
    ConfigError
        If there is no such kind, or no member.
    """

    def __init__(
        self,
        kind: str,
        vocabularies: tuple[int, ...],
        token_kinds: tuple[int, ...],
        *,
        seed: int = 0,
        members: int = 5,
        width: int = 100,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"there is no surrogate called {kind!r}; choose one of {', '.join(KINDS)}")
        if members < 1:
            raise ConfigError(f"a surrogate needs at least one member, not {members}")
        import torch

        self.kind, self.members, self.seed = kind, members, seed
        self._token_kinds = token_kinds
        self._fits = 0
        self._mean, self._spread = 0.0, 1.0
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            bound = 1 / math.sqrt(shape[-2])
            return ((2 * torch.rand(members, *shape, generator=generator) - 1) * bound).requires_grad_()

        self._tables = [
            torch.randn(members, size, width, generator=generator).requires_grad_() for size in vocabularies
        ]
        if kind == "mlp":
            self._layers = [weight(len(token_kinds) * width, width), weight(width, width)]
        else:
            self._layers = [weight(2 * width, 4 * width)]
        self._layers.append(weight(width, 1))
        self._biases = [torch.zeros(members, 1, layer.shape[2], requires_grad=True) for layer in self._layers]

    def _shares(self, parts: Tensor) -> list[Tensor]:
        """For each token of a part, how large a share of an architecture's parts has which value, ``(n, values)``.

        With these the mean of embeddings is a product of matrices, several times as fast as looking up and adding.
        """
        import torch

        present = (parts >= 0).float()
        weights = present / present[:, :, :1].sum(dim=1, keepdim=True).clamp(min=1)
        return [
            torch.zeros(len(parts), self._tables[kind].shape[1]).scatter_add_(
                1, parts[:, :, token].clamp(min=0), weights[:, :, token]
            )
            for token, kind in enumerate(self._token_kinds)
        ]

    def _encode(self, parts: Tensor) -> list[Tensor]:
        """What the network reads: of each architecture the shares of its tokens, or the tokens themselves."""
        return self._shares(parts) if self.kind == "mlp" else [parts]

    def _forward(self, encoded: list[Tensor]) -> Tensor:
        """Standardised scores ``(members, n)``."""
        import torch

        if self.kind == "mlp":
            x = torch.cat(
                [share @ self._tables[kind] for share, kind in zip(encoded, self._token_kinds, strict=True)], dim=2
            )
            for layer, bias in zip(self._layers[:-1], self._biases[:-1], strict=True):
                x = torch.relu(torch.baddbmm(bias, x, layer))
        else:
            (parts,) = encoded
            embedded = [
                self._tables[kind][:, parts[:, :, token].clamp(min=0)] for token, kind in enumerate(self._token_kinds)
            ]
            tokens = torch.stack(embedded, dim=3).flatten(2, 3)  # (members, n, most * tokens, width)
            runs = (parts >= 0).flatten(1)
            x = cell = torch.zeros_like(tokens[:, :, 0])
            for step in range(tokens.shape[2]):
                if not runs[:, step].any():
                    continue
                gates = torch.baddbmm(self._biases[0], torch.cat([tokens[:, :, step], x], dim=2), self._layers[0])
                into, forget, out, new = gates.chunk(4, dim=2)
                next_cell = torch.sigmoid(forget + 1) * cell + torch.sigmoid(into) * torch.tanh(new)
                runs_here = runs[None, :, step, None]
                cell = torch.where(runs_here, next_cell, cell)
                x = torch.where(runs_here, torch.sigmoid(out) * torch.tanh(next_cell), x)
        return torch.baddbmm(self._biases[-1], x, self._layers[-1]).squeeze(2)

    def fit(self, parts: np.ndarray, scores: np.ndarray) -> None:
        """Train on all data so far; the second time on, from the weights of the time before, and more slowly.

        Parameters
        ----------
        parts
            ``(n, most, tokens)``.
        scores
            ``(n,)``, finite.
        """
        import torch

        steps, rate = (STEPS[0], RATES[0]) if self._fits == 0 else (STEPS[1], RATES[1])
        order = np.random.default_rng([self.seed, self._fits]).permutation(len(scores))
        self._fits += 1
        self._mean, self._spread = float(scores.mean()), float(scores.std()) or 1.0
        taught = torch.ones(self.members, len(scores))
        if self.members > 1 and len(scores) >= self.members:
            taught[torch.arange(len(scores)) % self.members, torch.from_numpy(order)] = 0
        wanted = torch.from_numpy((scores - self._mean) / self._spread).float()
        encoded = self._encode(torch.from_numpy(np.ascontiguousarray(parts)))
        parameters = [*self._tables, *self._layers, *self._biases]
        optimizer = torch.optim.Adam(parameters, lr=rate)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            error = (self._forward(encoded) - wanted).abs()
            ((error * taught).sum(dim=1) / taught.sum(dim=1)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def predict(self, parts: np.ndarray) -> np.ndarray:
        """Predicted scores ``(n,)``: the mean of the members."""
        import torch

        found = []
        with torch.no_grad():
            for start in range(0, len(parts), CHUNK):
                encoded = self._encode(torch.from_numpy(parts[start : start + CHUNK]))
                found.append(self._forward(encoded).mean(dim=0).numpy())
        return self._mean + self._spread * np.concatenate([*found, np.zeros(0, dtype=np.float32)]).astype(float)
